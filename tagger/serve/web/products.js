// The products of the catalog: a grid of them, what narrows it, and the files to take away.

import { blob, exportUrl, hasKey, labelsUrl, products as ask } from "./api.js";
import { $, announce, bdi, button, count, el, icon, inPage, nameOf, plural, shown } from "./dom.js";
import { flagWord } from "./flags.js";
import { notify, panel, sentence, trouble } from "./messages.js";
import { SIZES, thumbnail } from "./pictures.js";
import { go, keyOf, linkTo, newQuery, state } from "./state.js";

const PAGE = 24;
const FIRST = 8; // categories shown before "more"
const MOST = 100; // products that the API gives at once
const PAUSE_MS = 250; // of the fingers, before the server is asked
const ANY = "any";
const DECIDED = { no: false, yes: true };
const grid = $("products-grid");
const shelf = $("shelf");
const sheet = $("sheet");
let about = null;
let parts = null;
let found = null; // what is on show: {key, total, next, scroll}
let asked = null;
let later = 0;
let allCategories = false;
let last = null; // the counts of the latest answer
const nearEnd = new IntersectionObserver((entries) => entries.some((entry) => entry.isIntersecting) && loadMore(), {
  rootMargin: "900px",
});

export function startProducts(collection) {
  about = collection;
  sheet.addEventListener("close", () => $("shelf-side").append(shelf));
}

/** Show the products that the state asks for. */
export async function showProducts() {
  const some = state();
  document.title = `Products · ${shown(about.name)}`;
  parts ??= build();
  if (document.activeElement !== parts.words) parts.words.value = some.q ?? "";
  parts.file.href = exportUrl(queryOf(some));
  showChips(some);
  const key = keyOf(some);
  if (found?.key === key) {
    showFilters();
    more();
    return scrollTo(0, found.scroll);
  }
  asked?.abort();
  asked = new AbortController();
  const { signal } = asked;
  nearEnd.disconnect();
  $("products-more").replaceChildren();
  if (grid.children.length) busy(true);
  else skeletons();
  announce("Looking for products");
  try {
    const page = await ask({ ...queryOf(some), k: PAGE }, signal);
    if (signal.aborted) return;
    found = { key, total: page.total, next: page.next_offset, scroll: 0 };
    show(page);
  } catch (error) {
    if (signal.aborted) return;
    found = null;
    problem(trouble(error, showProducts, [["Back to the pictures", () => go(newQuery({}))]]));
  }
}

export function leaveProducts() {
  asked?.abort();
  clearTimeout(later);
  nearEnd.disconnect();
  if (found) found.scroll = scrollY;
  if (grid.getAttribute("aria-busy") === "true") found = null;
}

/** The ids on show, in their order. */
export const productsShown = () => [...grid.querySelectorAll(".product-card")].map((card) => card.dataset.product);

/** Put down what was decided: how many of a product's tags, and how many there are in all. */
export function noteDecisions(id, tags, all) {
  const card = grid.querySelector(`[data-product="${CSS.escape(id)}"]`);
  card?.querySelector(".decided")?.remove();
  if (tags) card?.querySelector(".box").after(decidedMark(tags));
  if (parts) showLabels(all);
}

export const toProduct = (id, content, kind = "") =>
  el(`a${kind}`, { href: linkTo({ ...state(), product: id }), onclick: inPage(() => go({ product: id })) }, content);

function queryOf({ flag, category, q, decided }) {
  return { flag, category, q, decided: decided && DECIDED[decided] };
}

function show(page) {
  last = page;
  $("products-trouble").replaceChildren();
  grid.replaceChildren(...page.products.map(card));
  busy(false);
  scrollTo(0, 0);
  showFilters();
  showLabels(page.decisions);
  const text = page.total === about.catalog?.products ? plural(page.total, "product") : ofAll(page.total);
  parts.said.replaceChildren(`${text} in `, bdi(about.catalog?.name ?? "the catalog"));
  announce(plural(page.total, "product"));
  if (!page.total) problem(nothing());
  more();
}

const ofAll = (n) => `${count(n)} of ${plural(about.catalog?.products ?? n, "product")}`;

function problem(box) {
  grid.replaceChildren();
  busy(false);
  $("products-trouble").replaceChildren(box);
  announce(box.querySelector("h2").textContent);
}

const CLEARED = { flag: null, category: null, q: null, decided: null };

function nothing() {
  const narrowed = Object.keys(CLEARED).some((name) => state()[name]);
  if (!narrowed) return panel("The catalog has no products", "Enrich one that has, and serve that.", [], "tag");
  const text = "Take back some of what narrows the list.";
  return panel("No product fits all of this", text, [["Show all products", () => go(CLEARED)]], "filter");
}

function busy(is) {
  grid.setAttribute("aria-busy", String(is));
  grid.classList.toggle("dim", is && !grid.querySelector(".bone"));
}

function skeletons() {
  const line = (kind) => el(`div.line.${kind}`);
  const bone = () => el("li.card.bone", { "aria-hidden": "true" }, el("div.box"), line("caption"), line("words"));
  grid.replaceChildren(...Array.from({ length: 12 }, bone));
  busy(true);
}

function more() {
  const box = $("products-more");
  if (found?.next == null) return box.replaceChildren();
  box.replaceChildren(button(".plain", { onclick: loadMore }, "Show more"));
  nearEnd.observe(box);
}

// What is decided meanwhile leaves a list of undecided products, and those behind it move up: some of the list is
// asked for again, so that none is passed over.
function next({ next: offset }) {
  const again = state().decided ? Math.min(offset, MOST - PAGE) : 0;
  return { k: PAGE + again, offset: offset - again };
}

async function loadMore() {
  const mine = found;
  const box = $("products-more");
  nearEnd.disconnect();
  const hadFocus = box.contains(document.activeElement);
  box.replaceChildren(el("p.soft", { "aria-busy": "true" }, "Loading more…"));
  const { signal } = asked;
  try {
    const page = await ask({ ...queryOf(state()), ...next(mine) }, signal);
    if (signal.aborted) return;
    const first = grid.children.length;
    const known = new Set(productsShown());
    grid.append(...page.products.filter((one) => !known.has(one.product_id)).map(card));
    mine.next = page.next_offset;
    more();
    if (hadFocus) grid.children[first]?.querySelector("a").focus();
  } catch (error) {
    if (signal.aborted) return;
    box.replaceChildren(el("p", sentence(error.message)), button(".plain", { onclick: loadMore }, "Try again"));
  }
}

// ---- cards

function card(one) {
  const name = one.title || one.product_id;
  const box = el("span.box", one.image_id ? thumbnail(one.image_id, SIZES.card, "") : noPicture());
  const link = toProduct(one.product_id, box, ".product-link");
  link.append(el("span.product-title", bdi(name)));
  const node = el(
    "li.card.product-card",
    link,
    el("p.product-line.soft", one.category ? bdi(one.category) : "No category", one.price && bdi(one.price, ".number")),
    el("p.product-id.soft.small", one.title ? bdi(one.product_id) : ""),
    one.flags.length > 0 && el("ul.flags", { "aria-label": "Needs a look" }, ...one.flags.map(flagMark)),
  );
  if (one.decided) box.after(decidedMark(one.decided));
  node.dataset.product = one.product_id;
  return node;
}

const noPicture = () => el("span.gone", { title: "The product has no picture" }, icon("gone"));
const flagMark = (flag) => el("li.flag", icon("warn"), flagWord(flag));

const decidedMark = (n) =>
  el("span.decided", { title: `${plural(n, "tag")} decided` }, icon("check"), count(n), el("span.unseen", " decided"));

// ---- what narrows

function build() {
  const words = el("input", {
    type: "search",
    id: "product-words",
    maxlength: 200,
    placeholder: "Title, id or category",
    autocomplete: "off",
    spellcheck: "false",
    "aria-label": "Search the products",
  });
  words.addEventListener("input", () => {
    clearTimeout(later);
    later = setTimeout(() => go({ q: words.value.trim() || null }, { replace: true }), PAUSE_MS);
  });
  const said = el("p.soft", "Looking");
  const labels = download(labelsUrl, "labels.csv", "What you decided, as a file of image_id, tag and 1 or 0");
  const file = download("", "products.csv", "The products of this list, with decided tags and flags");
  file.append(icon("save"), el("span", "Products (CSV)"));
  const filters = button(".plain.narrow-only", { onclick: openSheet }, icon("filter"), "Filters");
  const field = el("div.product-search", icon("search"), words);
  $("products-head").replaceChildren(
    el("div.title", el("div", el("h1", { tabindex: "-1" }, "Products"), said)),
    el("div.tools", filters, field, labels, file),
  );
  const lists = { flags: el("div"), decided: el("div"), categories: el("div") };
  shelf.replaceChildren(
    el("h2.facets-title", "Filters"),
    group("Needs a look", lists.flags),
    group("Decisions", lists.decided),
    group("Category", lists.categories),
  );
  return { words, said, labels, file, ...lists };
}

const group = (title, content) => el("section.facet", el("h3", title), content);

function openSheet() {
  const done = button(".main.wide", { onclick: () => sheet.close() }, "Show the products");
  sheet.replaceChildren(shelf, el("div.sheet-foot", done));
  sheet.showModal();
}

function showFilters() {
  if (!last) return;
  const now = state();
  const focused = shelf.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  const flags = Object.entries(last.flags);
  // What was chosen stays in its list, so that it can be taken back where it was given.
  if (now.flag && now.flag !== ANY && !(now.flag in last.flags)) flags.push([now.flag, 0]);
  const any = [ANY, "Any of these", last.flagged];
  const rows = [any, ...flags.map(([flag, n]) => [flag, flagWord(flag), n])];
  parts.flags.replaceChildren(...rows.map(([flag, text, n]) => choice("flag", flag, text, n)));
  parts.decided.replaceChildren(
    choice("decided", "no", "Nothing decided yet"),
    choice("decided", "yes", "Something decided"),
  );
  const categories = last.categories.map((one) => [one.category, one.count]);
  if (now.category && !categories.some(([name]) => name === now.category)) categories.unshift([now.category, 0]);
  const visible = allCategories ? categories : categories.slice(0, FIRST);
  parts.categories.replaceChildren(...visible.map(([name, n]) => choice("category", name, bdi(name), n)));
  if (categories.length > FIRST) parts.categories.append(moreCategories(categories.length));
  parts.categories.parentElement.hidden = !categories.length;
  if (focused) (shelf.querySelector(`[data-key="${CSS.escape(focused)}"]`) ?? shelf.querySelector("button")).focus();
}

function choice(name, value, text, n = null) {
  const on = state()[name] === value;
  const toggle = () => go({ [name]: on ? null : value });
  const number = n !== null && el("span.number.soft", count(n), el("span.unseen", n === 1 ? " product" : " products"));
  const attributes = { "aria-pressed": String(on), "data-key": `${name}=${value}`, onclick: toggle };
  return el("div.facet-row", button(".facet-word", attributes, el("span", text), number));
}

function moreCategories(n) {
  const toggle = () => {
    allCategories = !allCategories;
    showFilters();
  };
  const attributes = { "aria-expanded": String(allCategories), "data-key": "more", onclick: toggle };
  return button(".link", attributes, allCategories ? "Fewer" : `All ${count(n)} categories`);
}

function showChips(now) {
  const box = $("products-chips");
  const hadFocus = box.contains(document.activeElement);
  const decided = { no: "Nothing decided yet", yes: "Something decided" }[now.decided];
  const chips = [
    now.flag && chip(now.flag === ANY ? "Needs a look" : flagWord(now.flag), "flag"),
    decided && chip(decided, "decided"),
    now.category && chip(shown(now.category), "category"),
    now.q && chip(`“${shown(now.q)}”`, "q"),
  ].filter(Boolean);
  if (chips.length > 1) chips.push(button(".link", { onclick: () => clear(CLEARED) }, "Clear all"));
  box.replaceChildren(...chips);
  box.hidden = !chips.length;
  if (hadFocus) (box.querySelector("button") ?? $("main")).focus();
}

function chip(text, name) {
  const remove = () => clear({ [name]: null });
  const attributes = { "aria-label": `Remove the filter ${text}`, onclick: remove };
  return button(".chip", attributes, el("bdi", text), icon("close"));
}

function clear(changes) {
  if ("q" in changes) parts.words.value = "";
  go(changes);
}

// ---- files to take away

// A plain link, unless the server wants a key, which a link does not send.
function download(href, name, title) {
  const link = el("a.plain", { href, download: name, title });
  link.addEventListener("click", async (event) => {
    if (!hasKey()) return;
    event.preventDefault();
    try {
      const address = URL.createObjectURL(await blob(link.getAttribute("href")));
      el("a", { href: address, download: name }).click();
      setTimeout(() => URL.revokeObjectURL(address), 60_000);
    } catch (error) {
      notify(sentence(error.message));
    }
  });
  return link;
}

function showLabels(n) {
  const label = el("span", "Labels ", el("span.number", `(${count(n)})`));
  parts.labels.replaceChildren(icon("save"), label);
  parts.labels.setAttribute("aria-label", `Download the labels: ${plural(n, "decision")}`);
}

/** The name of a picture for people who cannot see it. */
export const pictureName = (one, title) => one.alt_text || `${shown(title)}: ${nameOf(one.image_id)}`;
