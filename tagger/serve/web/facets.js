// What narrows the results: tags and categories counted among those loaded, colours, sizes, sureness. Beside
// the grid on wide screens, in a sheet on narrow ones; what was chosen stands above the grid as chips.

import { $, bdi, button, count, el, icon, percent, plural, shown, slider } from "./dom.js";
import { filterOf, go, state } from "./state.js";

const FIRST = 8; // words shown before "more"
const panel = $("facets");
const sheet = $("sheet");
const whole = { tags: false, categories: false }; // lists that are shown to their end
let parts = null;
let last = { matches: [], complete: true };

/** Build the panel once; only its numbers and words change later. */
export function startFacets(colors) {
  parts = {
    categories: el("div", ...bones()),
    tags: el("div", ...bones()),
    colors: el("div.swatches", ...colors.map(swatch)),
    width: sizeInput("width", "Width"),
    height: sizeInput("height", "Height"),
    score: scoreInput(),
    note: el("p.soft.small", "Counting"),
  };
  panel.replaceChildren(
    el("h2.facets-title", "Filters"),
    parts.note,
    group("Categories", parts.categories),
    group("Tags", parts.tags),
    group("Colour", parts.colors),
    group("At least this large", el("div.sizes", parts.width.label, parts.height.label)),
    group("Tags at least this sure", parts.score.label),
  );
  sheet.addEventListener("close", () => $("side").append(panel));
  sheet.addEventListener("click", (event) => event.target === sheet && sheet.close());
  // On a screen that became wide the panel stands beside the grid again.
  matchMedia("(min-width: 900px)").addEventListener("change", () => sheet.close());
}

function group(title, ...children) {
  return el("section.facet", el("h3", title), ...children);
}

// Room for the words to come, so that what is below them does not move.
const bones = () =>
  Array.from({ length: FIRST + 1 }, () => el("div.bone.facet-row", { "aria-hidden": "true" }, el("div.line")));

/** Show the panel as a sheet over the results. */
export function openSheet() {
  const done = button(".main.wide", { onclick: () => sheet.close() }, "Show the pictures");
  sheet.replaceChildren(panel, el("div.sheet-foot", done));
  sheet.showModal();
}

/** Count among the matches loaded so far; `complete` says whether these are all. */
export function showFacets(matches, complete) {
  last = { matches, complete };
  const now = state();
  parts.note.textContent = matches.length
    ? `Counted in ${complete ? "these" : "the first"} ${plural(matches.length, "result")}.`
    : "Nothing to count in these results.";
  for (const kind of ["categories", "tags"]) showWords(kind, matches, now);
  for (const node of parts.colors.children) node.setAttribute("aria-pressed", String(node.color === now.color));
  for (const name of ["width", "height"]) parts[name].input.value = now[name] || "";
  parts.score.show(now.score);
}

function showWords(kind, matches, now) {
  const list = parts[kind];
  const focused = list.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  const counts = new Map();
  for (const match of matches) for (const { tag } of match[kind]) counts.set(tag, (counts.get(tag) ?? 0) + 1);
  if (kind === "tags") addChosen(counts, matches, now);
  const chosen = (word) => now.all.includes(word) || now.none.includes(word);
  const words = [...counts]
    .filter(([word]) => word !== now.tag)
    .sort((a, b) => chosen(b[0]) - chosen(a[0]) || b[1] - a[1]);
  const visible = whole[kind] ? words : words.slice(0, FIRST);
  list.replaceChildren(...visible.map(([word, n]) => wordRow(word, n, now)));
  if (words.length > FIRST) list.append(moreButton(kind, words.length));
  list.parentElement.hidden = !words.length;
  if (focused) (list.querySelector(`[data-key="${CSS.escape(focused)}"]`) ?? panel.querySelector("button"))?.focus();
}

// What was chosen stays in the list even if no result has it, so that it can be taken back where it was given.
function addChosen(counts, matches, now) {
  const categories = new Set(matches.flatMap((match) => match.categories.map(({ tag }) => tag)));
  for (const word of [...now.all, ...now.none]) if (!counts.has(word) && !categories.has(word)) counts.set(word, 0);
}

function wordRow(word, n, now) {
  const on = now.all.includes(word);
  const off = now.none.includes(word);
  const only = button(
    ".facet-word",
    { "aria-pressed": String(on), "data-key": `+${word}`, onclick: () => narrow(word) },
    bdi(word),
    el("span.number.soft", count(n), el("span.unseen", " in these results")),
  );
  const not = button(
    ".icon-button.not",
    {
      "aria-pressed": String(off),
      "aria-label": `Leave out ${shown(word)}`,
      title: "Leave out",
      "data-key": `-${word}`,
      onclick: () => leaveOut(word),
    },
    icon("exclude"),
  );
  return el(off ? "div.facet-row.off" : "div.facet-row", only, not);
}

function moreButton(kind, n) {
  const toggle = () => {
    whole[kind] = !whole[kind];
    showFacets(last.matches, last.complete);
  };
  return button(
    ".link",
    { "aria-expanded": String(whole[kind]), "data-key": "more", onclick: toggle },
    whole[kind] ? "Fewer" : `All ${count(n)} ${kind}`,
  );
}

function swatch(name) {
  const toggle = () => go({ color: state().color === name ? null : name });
  const node = button(
    ".swatch",
    { "aria-pressed": "false", "aria-label": name, title: name, "data-color": name, onclick: toggle },
    icon("check"),
  );
  node.color = name;
  return node;
}

function sizeInput(name, text) {
  const input = el("input", { type: "number", min: 0, max: 100000, step: 1, inputmode: "numeric", placeholder: "any" });
  input.addEventListener("change", () => go({ [name]: Math.max(0, Math.round(Number(input.value) || 0)) }));
  return { input, label: el("label", el("span.soft", text), input, el("span.soft", "px")) };
}

function scoreInput() {
  const output = el("span.number", { "aria-hidden": "true" }); // the input tells it itself
  const tell = (value) => (output.textContent = value ? percent(value / 100) : "any");
  const label = "Least score of a tag that counts";
  const { input, show } = slider(label, { max: 95, step: 5 }, tell, (score) => go({ score }));
  return { show, label: el("div.slider", input, output) };
}

/** Show only what has a tag as well, or no longer only that. */
export function narrow(word) {
  const { all, none } = state();
  go({ all: toggled(all, word), none: none.filter((other) => other !== word) });
}

export function leaveOut(word) {
  const { all, none } = state();
  go({ none: toggled(none, word), all: all.filter((other) => other !== word) });
}

const toggled = (list, word) => (list.includes(word) ? list.filter((other) => other !== word) : [...list, word]);

export const CLEARED = { all: [], none: [], color: null, score: 0, width: 0, height: 0 };

/** What narrows the results, each with its x. */
export function showChips() {
  const now = state();
  const box = $("chips");
  const hadFocus = box.contains(document.activeElement);
  const chips = [
    ...now.all.map((word) => chip([bdi(word)], shown(word), () => narrow(word))),
    ...now.none.map((word) => chip(["not ", bdi(word)], `not ${shown(word)}`, () => leaveOut(word))),
    now.color && chip([el("span.dot", { "data-color": now.color }), now.color], now.color, () => go({ color: null })),
    now.score && chip([`≥ ${now.score}\u00a0% sure`], `at least ${now.score} % sure`, () => go({ score: 0 })),
    now.width &&
      chip([`≥ ${count(now.width)}\u00a0px wide`], `at least ${now.width} pixels wide`, () => go({ width: 0 })),
    now.height &&
      chip([`≥ ${count(now.height)}\u00a0px high`], `at least ${now.height} pixels high`, () => go({ height: 0 })),
  ].filter(Boolean);
  if (chips.length > 1) chips.push(button(".link", { onclick: () => go(CLEARED) }, "Clear all"));
  box.replaceChildren(...chips);
  box.hidden = !filterOf(now);
  if (hadFocus) (box.querySelector("button") ?? $("main")).focus();
}

function chip(content, text, remove) {
  return button(".chip", { "aria-label": `Remove the filter ${text}`, onclick: remove }, ...content, icon("close"));
}
