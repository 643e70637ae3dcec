// The grid of results: one card a picture, and the arrow keys that move among them.

import { $, bdi, button, el, inPage, nameOf, percent, plural, shown } from "./dom.js";
import { SIZES, thumbnail } from "./pictures.js";
import { linkTo, state } from "./state.js";
import { because, voteButtons } from "./tray.js";

const SHOWN_TAGS = 2;
const grid = $("grid");
let on = {};

/** What the scores mean: how the list is told about, what a score says on its own, and to screen readers. */
export const MEANINGS = {
  similar: ["most alike first. 100\u00a0% is the same picture.", "How alike the two look to the model", "similar"],
  tag: ["surest first. The percentage says how sure the model is.", "How sure the model is of the tag", "sure"],
  recommended: [
    "each with the reason. The percentage says how close it is to all you liked.",
    "How close it is to all you liked",
    "close",
  ],
};

/** `on.open(id)`, `on.narrow(tag)`, `on.copies()` are called by the cards. */
export function startGrid(handlers) {
  on = handlers;
  grid.addEventListener("keydown", onKey);
}

export function clearGrid() {
  grid.replaceChildren();
  busy(false);
}

/** Boxes in the shape of results while there are none yet. */
export function showSkeletons(n = 12) {
  const line = (kind) => el(`div.line.${kind}`);
  const bone = () => el("li.card.bone", { "aria-hidden": "true" }, el("div.box"), line("caption"), line("words"));
  grid.replaceChildren(...Array.from({ length: n }, bone));
  busy(true);
}

export function busy(is) {
  grid.setAttribute("aria-busy", String(is));
  grid.classList.toggle("dim", is && !grid.querySelector(".bone"));
}

export function showCards(matches, meaning) {
  grid.replaceChildren(...matches.map((match) => card(match, meaning)));
  busy(false);
}

export function addCards(matches, meaning) {
  grid.append(...matches.map((match) => card(match, meaning)));
}

/** The link to a picture's details; a real one, so that it can be opened in a new tab. */
export function pictureLink(id, size, open, label = nameOf(id)) {
  const attributes = { href: linkTo({ ...state(), open: id }), title: shown(id), onclick: inPage(() => open(id)) };
  const link = el("a.box", attributes, thumbnail(id, size, label));
  link.dataset.image = id;
  return link;
}

function card(match, meaning) {
  const { image_id: id, score, tags, folded = [] } = match;
  const words = (tags.length ? tags : match.categories).slice(0, SHOWN_TAGS);
  const label = [nameOf(id), ...words.map(({ tag }) => shown(tag))].join(", ");
  return el(
    "li.card",
    el(
      "div.frame",
      pictureLink(id, SIZES.card, on.open, label),
      folded.length > 0 && copiesBadge(folded),
      voteButtons(id),
    ),
    el("div.caption", bdi(nameOf(id), ".soft"), scoreMark(score, meaning)),
    el("div.words", ...words.map(narrowing)),
    match.because && because(match.because, () => on.open(match.because)),
  );
}

function scoreMark(score, meaning) {
  const [, title, word] = MEANINGS[meaning];
  return el("span.score.number", { title }, percent(score), el("span.unseen", ` ${word}`));
}

function narrowing({ tag, score }) {
  const text = shown(tag);
  return button(
    ".word",
    { title: `${text}, ${percent(score)} sure. Show only these.`, onclick: () => on.narrow(tag) },
    el("span.unseen", "Only "),
    el("bdi", text),
  );
}

function copiesBadge(folded) {
  const text = `${plural(folded.length, "more copy", "more copies")} of this picture; show all`;
  return button(".badge", { "aria-label": text, title: text, onclick: () => on.copies() }, `+${folded.length}`);
}

// Tab walks through everything; the arrows go from picture to picture, as the eye does.
function onKey(event) {
  const links = [...grid.querySelectorAll(".frame > .box")];
  const at = links.indexOf(document.activeElement);
  if (at < 0 || event.altKey || event.ctrlKey || event.metaKey) return;
  const top = links[0].getBoundingClientRect().top;
  const next = links.findIndex((link) => link.getBoundingClientRect().top > top + 4);
  const columns = next < 0 ? links.length : next;
  const steps = {
    ArrowRight: at + 1,
    ArrowLeft: at - 1,
    ArrowDown: at + columns,
    ArrowUp: at - columns,
    Home: 0,
    End: links.length - 1,
  };
  const target = links[steps[event.key]];
  if (!(event.key in steps)) return;
  event.preventDefault();
  target?.focus();
}

/** The ids on show, in their order. */
export const idsShown = () => [...grid.querySelectorAll(".frame > .box")].map((link) => link.dataset.image);
