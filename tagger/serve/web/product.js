// The panel of one product: its pictures, what the model says of them, and the buttons that accept or reject it.
// What is decided holds for all of the product's pictures, is kept by the server at once, and can be undone.

import { decide as send, product as ask } from "./api.js";
import { colorBar } from "./detail.js";
import { $, bdi, button, dialogHead, el, icon, nameOf, percent, plural, shown } from "./dom.js";
import { flagDetail, flagWord } from "./flags.js";
import { sentence, trouble } from "./messages.js";
import { SIZES, thumbnail } from "./pictures.js";
import { noteDecisions, pictureName, productsShown, toProduct } from "./products.js";
import { closeDetail, go, newQuery, state } from "./state.js";

const MOST_AT_ONCE = 1000; // decisions that the API takes in one request
const SOURCES = {
  taxonomy: "from your own categories",
  peers: "what products that look like it have",
  tags: "from the surest tag",
};
const VALUES = { accept: 1, reject: 0 };
const dialog = $("product");
let asked = null;
let about = null; // the product on show
let decided = new Map(); // tag → {accepted, rejected} images
let undo = null; // the decisions that held before the latest
let waiting = Promise.resolve(); // decisions are sent one after the other
let underWay = 0;

export function startProduct() {
  dialog.addEventListener("cancel", (event) => {
    event.preventDefault();
    closeDetail();
  });
  dialog.addEventListener("close", () => state().product && closeDetail());
  dialog.addEventListener("click", (event) => event.target === dialog && closeDetail());
  dialog.addEventListener("keydown", onKey);
}

/** Show a product, or with null close the panel and give the focus back. */
export function showProduct(id, before) {
  asked?.abort();
  if (!id) return hide(before);
  asked = new AbortController();
  about = undo = null;
  const turned = document.activeElement?.dataset.turn; // who leafs through stays on that button
  const left = el("div.left", el("div.stage"));
  const facts = el("div.facts", { "aria-busy": "true" }, el("div.bone.line"), el("div.bone.line"));
  const told = el("div.told", { role: "status" });
  dialog.replaceChildren(header(id, id), el("div.columns", left, facts), told);
  if (!dialog.open) dialog.showModal();
  (dialog.querySelector(`[data-turn="${turned}"]:enabled`) ?? dialog.querySelector(".close")).focus();
  fill(id, left, facts);
}

function hide(before) {
  if (!dialog.open) return;
  dialog.close();
  dialog.replaceChildren();
  if (document.activeElement === document.body)
    document.querySelector(`[data-product="${CSS.escape(before ?? "")}"] a`)?.focus();
}

const header = (id, title) =>
  dialogHead({
    heading: el("h2", { id: "product-name" }, bdi(title)),
    ids: productsShown(),
    id,
    turns: ["Product before", "Next product"],
    step,
    close: closeDetail,
  });

function step(by) {
  const ids = productsShown();
  const at = ids.indexOf(state().product);
  if (at >= 0 && ids[at + by]) go({ product: ids[at + by] }, { replace: true });
}

function onKey(event) {
  if (event.target.matches("input") || event.altKey || event.ctrlKey || event.metaKey) return;
  const keys = { a: 1, r: 0 };
  const row = event.target.closest?.("[data-tag]");
  if (event.key === "ArrowLeft") step(-1);
  else if (event.key === "ArrowRight") step(1);
  else if (row && event.key in keys) toggle(row.dataset.tag, keys[event.key]);
  else if (event.key === "u" && undo) takeBack();
}

async function fill(id, left, facts) {
  const { signal } = asked;
  try {
    const known = await ask(id, signal);
    if (signal.aborted) return;
    about = known;
    note(known.decisions);
    dialog.querySelector("#product-name").replaceChildren(bdi(known.title || known.product_id));
    facts.removeAttribute("aria-busy");
    facts.replaceChildren(...factsOf(known));
    left.replaceChildren(...picturesOf(known));
    const columns = left.parentElement; // which scrolls on narrow screens, and must do so by the keys, too
    if (!columns.querySelector("a[href], button, input")) columns.tabIndex = 0;
    press();
  } catch (error) {
    if (signal.aborted) return;
    facts.removeAttribute("aria-busy");
    facts.replaceChildren(trouble(error, () => showProduct(id), [["Close", closeDetail]]));
  }
}

// ---- its pictures

function picturesOf(known) {
  const title = known.title || known.product_id;
  const stage = el("div.stage");
  const thumbs = known.images.map((one) => {
    const name = pictureName(one, title);
    const choose = () => choosePicture(one, stage, title);
    const attributes = { "aria-label": `Show ${name}`, title: shown(nameOf(one.image_id)), onclick: choose };
    const node = button(".thumb", attributes, thumbnail(one.image_id, SIZES.card, ""));
    node.dataset.image = one.image_id;
    return el("li", node);
  });
  stage.append(
    el("div.product-picture"),
    el("ul.thumbs", { "aria-label": "Pictures of this product", hidden: known.images.length < 2 }, ...thumbs),
    el("div.alt"),
  );
  if (known.images.length) choosePicture(known.images[0], stage, title);
  else stage.firstChild.append(el("span.gone", icon("gone"), el("span", "No picture of it is in the collection")));
  const lists = [
    ["Similar products", known.similar_products],
    ["Bought by the same customers", known.recommended_with],
  ];
  return [stage, ...lists.filter(([, list]) => list.length).map(([name, list]) => similar(name, list))];
}

function choosePicture(one, stage, title) {
  const image = thumbnail(one.image_id, SIZES.large, pictureName(one, title));
  image.loading = "eager";
  stage.querySelector(".product-picture").replaceChildren(image);
  for (const node of stage.querySelectorAll(".thumb"))
    node.setAttribute("aria-pressed", String(node.dataset.image === one.image_id));
  const text = one.alt_text ? bdi(one.alt_text) : "None: the model is not sure enough.";
  const find = {
    title: "Search the collection with this picture",
    onclick: () => go(newQuery({ image: one.image_id })),
  };
  stage
    .querySelector(".alt")
    .replaceChildren(
      el("div", el("h3", "Alternative text"), el("p.alt-text", text)),
      one.alt_text ? copyButton(one.alt_text) : "",
      button(".plain.small", find, icon("search"), "Find alike"),
    );
}

function copyButton(text) {
  const say = el("span", { "aria-live": "polite" }, "Copy");
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      say.replaceChildren("Copied");
    } catch {
      // Not over plain http, or forbidden: select it, so that the keys can copy it.
      getSelection().selectAllChildren(dialog.querySelector(".alt-text"));
      say.replaceChildren("Selected; press Ctrl+C");
    }
  };
  return button(".plain.small", { onclick: copy, title: "Copy the alternative text" }, icon("copy"), say);
}

function similar(name, list) {
  const one = ({ product_id: id, title, image_id: image, score }) => {
    const picture = image ? thumbnail(image, SIZES.card, "") : el("span.gone", icon("gone"));
    const link = toProduct(id, el("span.box", picture), ".product-link");
    link.title = `${shown(title || id)}, ${percent(score)} alike`;
    link.append(el("span.small.strip-name", bdi(title || id)));
    return el("li", link);
  };
  return el("section.similar", el("h3", name), el("ul.strip", ...list.map(one)));
}

// ---- what is known of it

function factsOf(known) {
  const named = [known.category || "No category", known.price].filter(Boolean);
  return [
    el(
      "div.product-facts",
      el("p.soft", ...named.flatMap((text, n) => [n ? " · " : "", bdi(text)])),
      el("p.soft.small", "Id ", el("code", bdi(known.product_id))),
    ),
    known.flags.length > 0 && part("Needs a look", el("ul.flag-rows", ...known.flags.map(flagRow))),
    known.suggestion && part("Suggested category", suggestion(known)),
    part("Tags", tags(known)),
    known.categories.length > 0 && part("Categories", el("div.words", ...known.categories.map(category))),
    known.colors.length > 0 && part("Colours", colorBar(known.colors)),
    known.own.length > 0 && part("In your catalog", own(known.own)),
  ].filter(Boolean);
}

const category = ({ tag, score }) => el("span.word", bdi(tag), el("span.soft.number", ` ${percent(score)}`));

const part = (title, content) => el("section", el("h3", title), content);

function flagRow(flag) {
  const detail = flagDetail(flag, (id) => toProduct(id, bdi(id), ".text-link"));
  return el("li", icon("warn"), el("div", el("span.strong", flagWord(flag.flag)), el("span.soft", ...detail)));
}

function suggestion({ suggestion: { category, tag, score, source }, images }) {
  const steps = category.split(" > ");
  const way = steps.flatMap((word, n) => [
    n ? el("span.soft", { "aria-hidden": "true" }, "›") : "",
    bdi(word, n === steps.length - 1 ? ".strong" : ".soft"),
  ]);
  const why = `${percent(score)} sure, ${SOURCES[source] ?? shown(source)}`;
  const row = el("div.decide-row.suggestion", el("div.way", el("p", ...way), el("p.soft.small", why)));
  row.dataset.tag = tag;
  if (images.length) row.append(choices(tag));
  return row;
}

function tags({ tags: list, images, decisions }) {
  const known = new Set(list.map(({ tag }) => tag));
  const others = decisions.filter(({ tag }) => !known.has(tag)).map(({ tag }) => ({ tag }));
  const rows = el("ul.decide-rows", ...[...list, ...others].map((one) => tagRow(one, images.length > 0)));
  if (!images.length) return el("p.soft", "Without a picture there is nothing to decide.");
  const help = "A decision counts for all pictures of the product. Keys: A accepts, R rejects, U undoes.";
  return el("div", rows, addForm(rows), el("p.soft.small.help", help));
}

function tagRow({ tag, score }, can) {
  const bar = el("span.meter", { "aria-hidden": "true" }, el("span"));
  bar.firstChild.style.width = `${Math.max(0, Math.min(1, score ?? 0)) * 100}%`;
  const much = score == null ? el("span.soft.small.number", "yours") : el("span.number.soft.small", percent(score));
  const row = el("li.decide-row", el("div.way", bdi(tag, ".strong"), el("div.much", score != null && bar, much)));
  row.dataset.tag = tag;
  if (can) row.append(choices(tag));
  return row;
}

function choices(tag) {
  const one = (kind, text, sign) => {
    const press = () => toggle(tag, VALUES[kind]);
    const attributes = { "aria-pressed": "false", "aria-label": `${text} ${shown(tag)}`, title: text, onclick: press };
    return button(`.choice.${kind}`, attributes, icon(sign), el("span", text));
  };
  return el("div.choices", one("accept", "Accept", "check"), one("reject", "Reject", "close"));
}

// What the model did not say can be said, too.
function addForm(rows) {
  const input = el("input", { id: "own-tag", maxlength: 200, autocomplete: "off", placeholder: "Another tag" });
  input.setAttribute("aria-label", "Another tag that fits");
  const form = el("form.add-tag", input, el("button.plain.small", "Add"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const tag = input.value.trim();
    if (!tag) return;
    input.value = "";
    if (!rowsOf(tag).length) rows.append(tagRow({ tag }, true));
    if (valueOf(tag) !== 1) decide(tag, 1);
  });
  return form;
}

function own(columns) {
  return el("dl.about", ...columns.map(({ name, value }) => el("div", el("dt", bdi(name)), el("dd", bdi(value)))));
}

// ---- decisions

const rowsOf = (tag) => [...dialog.querySelectorAll("[data-tag]")].filter((row) => row.dataset.tag === tag);

function note(decisions) {
  decided = new Map(decisions.map(({ tag, accepted, rejected }) => [tag, { accepted, rejected }]));
}

/** 1 or 0 where the pictures agree, null where nothing is decided, and undefined where they do not agree. */
function valueOf(tag) {
  const { accepted = 0, rejected = 0 } = decided.get(tag) ?? {};
  if (!accepted && !rejected) return null;
  return accepted && rejected ? undefined : Number(accepted > 0);
}

function press() {
  for (const row of dialog.querySelectorAll("[data-tag]")) {
    const value = valueOf(row.dataset.tag);
    row.classList.toggle("accepted", value === 1);
    row.classList.toggle("rejected", value === 0);
    for (const [kind, own] of Object.entries(VALUES))
      row.querySelector(`.${kind}`)?.setAttribute("aria-pressed", String(value === own));
  }
}

const toggle = (tag, value) => decide(tag, valueOf(tag) === value ? null : value);

function decide(tag, value) {
  const { images } = about;
  decided.set(tag, { accepted: value === 1 ? images.length : 0, rejected: value === 0 ? images.length : 0 });
  press(); // at once; what the server says follows
  const word = { 1: "Accepted", 0: "Rejected" }[value] ?? "Took back";
  const pictures = images.length > 1 ? ` for ${plural(images.length, "picture")}` : "";
  const all = images.map(({ image_id: id }) => ({ image_id: id, tag, value }));
  keep(all, [`${word} `, bdi(tag, ".strong"), `${pictures}.`]);
}

function takeBack() {
  const before = undo;
  undo = null;
  keep(before, ["Undone."], false);
}

// In turn, so that the last that was pressed is the last that is kept.
function keep(decisions, words, canUndo = true) {
  const { product_id: id } = about;
  underWay += 1;
  waiting = waiting.then(async () => {
    let [said, before, total] = [words, null, null];
    try {
      [before, total] = await sendAll(decisions);
    } catch (error) {
      said = [el("span.bad", `Not kept. ${sentence(error.message)}`)];
    }
    underWay -= 1;
    if (!underWay) await refresh(id, total).catch(() => {}); // else what is on show is newer
    if (about?.product_id === id) tell(said, canUndo && before?.length ? before : null);
  });
}

async function sendAll(decisions) {
  const before = [];
  let total = null;
  for (let start = 0; start < decisions.length; start += MOST_AT_ONCE) {
    const answer = await send(decisions.slice(start, start + MOST_AT_ONCE));
    before.push(...answer.before);
    total = answer.decisions;
  }
  return [before, total];
}

/** Show what the server has kept. */
async function refresh(id, total) {
  const { decisions } = await ask(id);
  if (total !== null) noteDecisions(id, decisions.length, total);
  if (underWay || about?.product_id !== id) return; // somebody has pressed meanwhile: what is on show is newer
  note(decisions);
  press();
}

function tell(words, before) {
  undo = before;
  const told = dialog.querySelector(".told");
  const hadFocus = told.contains(document.activeElement);
  const back = before && button(".plain.small", { onclick: takeBack }, icon("undo"), "Undo");
  told.replaceChildren(el("p", ...words), back ?? "");
  const instead = () => dialog.querySelector(".choice") ?? dialog.querySelector(".close");
  if (hadFocus) (told.querySelector("button") ?? instead()).focus();
}
