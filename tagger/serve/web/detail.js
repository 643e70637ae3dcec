// The detail panel: one picture large, what is known of it, where the model saw a tag, and similar pictures.

import { explain, image as askImage, pictureUrl, search } from "./api.js";
import { $, bdi, button, count, dialogHead, el, icon, nameOf, percent, shown } from "./dom.js";
import { idsShown, pictureLink } from "./grid.js";
import { sentence, trouble } from "./messages.js";
import { SIZES, showAddress, showBlob, thumbnail } from "./pictures.js";
import { closeDetail, go, newQuery, state } from "./state.js";
import { matchOf } from "./results.js";
import { voteButtons } from "./tray.js";

const SIMILAR = 8;
const dialog = $("detail");
let about = null;
let asked = null;
let heat = null; // {tag, layer} of the heat map on show

export function startDetail(collection) {
  about = collection;
  dialog.addEventListener("cancel", (event) => {
    event.preventDefault();
    closeDetail();
  });
  // A browser may close it without asking, after Escape was pressed twice.
  dialog.addEventListener("close", () => state().open && closeDetail());
  dialog.addEventListener("click", (event) => event.target === dialog && closeDetail());
  dialog.addEventListener("keydown", (event) => {
    if (event.target.matches("input") || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
}

/** Show an image, or with null close the panel and give the focus back. */
export function showDetail(id, before) {
  asked?.abort();
  if (!id) return hide(before);
  asked = new AbortController();
  heat = null;
  const turned = document.activeElement?.dataset.turn; // who leafs through stays on that button
  const stage = el("div.stage");
  const facts = el("div.facts", { "aria-busy": "true" }, el("div.bone.line"), el("div.bone.line"));
  const similar = el("section.similar", el("h3", "Similar pictures"), el("ul.strip"));
  dialog.replaceChildren(header(id), el("div.columns", el("div.left", stage, similar), facts));
  if (!dialog.open) dialog.showModal();
  (dialog.querySelector(`[data-turn="${turned}"]:enabled`) ?? dialog.querySelector(".close")).focus();
  dialog.scrollTop = 0;
  fill(id, stage, facts);
  fillSimilar(id, similar);
}

function hide(before) {
  if (!dialog.open) return;
  dialog.close();
  dialog.replaceChildren();
  // The browser gives the focus back to what had it, unless the grid was drawn anew since.
  if (document.activeElement === document.body)
    document.querySelector(`.frame > [data-image="${CSS.escape(before ?? "")}"]`)?.focus();
}

const header = (id) =>
  dialogHead({
    heading: el("h2", { id: "detail-name" }, bdi(nameOf(id))),
    ids: idsShown(),
    id,
    turns: ["Picture before", "Next picture"],
    step,
    close: closeDetail,
  });

function step(by) {
  const ids = idsShown();
  const at = ids.indexOf(dialog.dataset.id);
  if (at >= 0 && ids[at + by]) go({ open: ids[at + by] }, { replace: true });
}

async function fill(id, stage, facts) {
  dialog.dataset.id = id;
  const { signal } = asked;
  try {
    const known = await askImage(id, signal);
    if (signal.aborted) return;
    showPicture(known, stage);
    facts.removeAttribute("aria-busy");
    facts.replaceChildren(...factsOf(known, stage));
  } catch (error) {
    if (signal.aborted) return;
    facts.removeAttribute("aria-busy");
    facts.replaceChildren(trouble(error, () => showDetail(id)));
  }
}

// The thumbnail is there at once, being in the cache; the large picture takes its place when it has come.
function showPicture({ image_id: id, width_px: width, height_px: height }, stage) {
  const image = thumbnail(id, SIZES.card, nameOf(id));
  image.loading = "eager";
  const frame = el("div.picture", image);
  frame.style.setProperty("--w", width || SIZES.card);
  frame.style.setProperty("--h", height || (SIZES.card * 3) / 4);
  stage.replaceChildren(el("div.canvas", frame), el("p.heat-line", { role: "status" }));
  if (Math.max(width, height) <= SIZES.card) return;
  const large = el("img", { alt: nameOf(id), draggable: "false" });
  large.addEventListener("load", () => image.isConnected && image.replaceWith(large));
  showAddress(large, pictureUrl(id)).catch(() => {});
}

function factsOf(known, stage) {
  const id = known.image_id;
  const folded = matchOf(id)?.folded ?? [];
  const size = known.width_px && `${count(known.width_px)} × ${count(known.height_px)} pixels`;
  const day = new Date(known.tagged_at).toLocaleDateString("en", { dateStyle: "long" });
  return [
    el(
      "div.do",
      voteButtons(id, true),
      button(".main", { onclick: () => go(newQuery({ image: id })) }, icon("search"), "Search with this"),
    ),
    known.tags.length > 0 && part(tagsTitle(), el("ul.tag-rows", ...known.tags.map((tag) => tagRow(id, tag, stage)))),
    known.categories.length > 0 && part("Categories", el("div.words", ...known.categories.map(category))),
    known.colors.length > 0 && part("Colours", colorBar(known.colors)),
    folded.length > 0 && part("Copies of this picture", el("ul.strip", ...folded.slice(0, SIMILAR).map(small))),
    part(
      "About the file",
      el(
        "dl.about",
        size && el("div", el("dt", "Size"), el("dd", size)),
        el("div", el("dt", "Tagged"), el("dd", day)),
        el("div", el("dt", "Id"), el("dd", el("code.id", bdi(id)), copyButton(id))),
      ),
    ),
  ].filter(Boolean);
}

const part = (title, content) => el("section", title instanceof Node ? title : el("h3", title), content);

// Only a model that can tell where it saw a tag has a column that says so.
const tagsTitle = () => el("div.tags-title", el("h3", "Tags"), about.explains && el("span.soft.small", "Seen where?"));

function tagRow(id, { tag, score, parents }, stage) {
  const path = parents.flatMap((parent) => [el("span.soft", { "aria-hidden": "true" }, "→"), word(parent)]);
  const bar = el("span.meter", { "aria-hidden": "true" }, el("span"));
  bar.firstChild.style.width = `${Math.max(0, Math.min(1, score)) * 100}%`;
  return el(
    "li",
    word(tag, ".strong"),
    bar,
    el("span.number", percent(score)),
    about.explains && heatButton(id, tag, stage),
    path.length > 0 && el("div.path", ...path),
  );
}

function word(tag, kind = "") {
  return button(`.word${kind}`, { title: `Search for ${shown(tag)}`, onclick: () => go(newQuery({ tag })) }, bdi(tag));
}

function category({ tag, score }) {
  const text = `Search for ${shown(tag)}`;
  return button(
    ".word",
    { title: text, onclick: () => go(newQuery({ tag })) },
    bdi(tag),
    el("span.soft.number", ` ${percent(score)}`),
  );
}

function heatButton(id, tag, stage) {
  const toggle = () => (heat?.tag === tag ? hideHeat(stage) : showHeat(id, tag, stage));
  const node = button(
    ".icon-button.eye",
    {
      "aria-pressed": "false",
      "aria-label": `Show where the model saw ${shown(tag)}`,
      title: "Show where the model saw it",
      onclick: toggle,
    },
    icon("eye"),
  );
  node.tag = tag;
  return node;
}

async function showHeat(id, tag, stage) {
  hideHeat(stage);
  heat = { tag };
  const mine = heat;
  press();
  const line = stage.querySelector(".heat-line");
  line.replaceChildren("Looking…");
  stage.scrollIntoView({ block: "nearest" }); // on narrow screens the tags are below the picture
  try {
    const map = await explain(id, tag, SIZES.large);
    if (heat !== mine) return;
    const layer = el("img.heat", { alt: `Heat map of ${shown(tag)}` });
    showBlob(layer, map);
    stage.querySelector(".picture").append(layer);
    const show = button(".word", { "aria-pressed": "true", onclick: () => flip(layer, show) }, "Heat map");
    const edges = about.framing === "crop" && " Dark edges: not looked at.";
    const told = el("span", "Where the model saw ", bdi(tag, ".strong"), ".", edges);
    line.replaceChildren(told, show);
  } catch (error) {
    if (heat !== mine) return;
    hideHeat(stage);
    line.replaceChildren(sentence(error.message));
  }
}

function flip(layer, toggle) {
  layer.hidden = !layer.hidden;
  toggle.setAttribute("aria-pressed", String(!layer.hidden));
}

function hideHeat(stage) {
  heat = null;
  stage.querySelector(".heat")?.remove();
  stage.querySelector(".heat-line")?.replaceChildren();
  press();
}

function press() {
  for (const node of dialog.querySelectorAll(".eye")) node.setAttribute("aria-pressed", String(node.tag === heat?.tag));
}

export function colorBar(colors) {
  const bar = el("div.color-bar", { "aria-hidden": "true" });
  for (const { name, fraction } of colors) {
    const piece = el("span", { "data-color": name });
    piece.style.flexGrow = fraction * 100; // below 1 in sum they would not fill the bar
    bar.append(piece);
  }
  const names = colors.map(({ name, fraction }) =>
    el("li", el("span.dot", { "data-color": name }), `${name} `, el("span.soft", percent(fraction))),
  );
  return el("div", bar, el("ul.color-names", ...names));
}

function copyButton(id) {
  const node = button(
    ".plain.small",
    { onclick: () => copy(id, node) },
    icon("copy"),
    el("span", { "aria-live": "polite" }, "Copy"),
  );
  return node;
}

async function copy(text, node) {
  const say = (words) => node.querySelector("span").replaceChildren(words);
  try {
    await navigator.clipboard.writeText(text);
    say("Copied");
  } catch {
    // Not over plain http, or forbidden: select it, so that the keys can copy it.
    getSelection().selectAllChildren(dialog.querySelector(".id"));
    say("Selected; press Ctrl+C");
  }
}

const small = (id) =>
  el(
    "li",
    pictureLink(id, SIZES.card, (other) => go({ open: other })),
  );

async function fillSimilar(id, section) {
  const { signal } = asked;
  try {
    const found = await search({ image_id: id, k: SIMILAR, fold: true }, signal);
    if (signal.aborted) return;
    section.hidden = !found.matches.length;
    section.querySelector("ul").replaceChildren(...found.matches.map((match) => small(match.image_id)));
  } catch {
    if (!signal.aborted) section.hidden = true; // the facts beside it tell what is wrong
  }
}
