// The start: what the collection is, its most frequent tags as ways in, and how to search.

import { searchAll, tags } from "./api.js";
import { $, ago, bdi, count, el, icon, inPage, percent, plural, shown } from "./dom.js";
import { panel, sentence, trouble } from "./messages.js";
import { SIZES, thumbnail } from "./pictures.js";
import { go, linkTo, newQuery } from "./state.js";

const TILES = 12;
const SPARE = 8; // tags asked for besides, as some have no picture of their own
const CHOICES = 6; // pictures asked for each tag, so that neighbours show different ones
const view = $("start");
let built = null;

/** Show the start of a collection; `open(tag)` begins a search. */
export function showStart(about, open) {
  if (built === about) return;
  built = about;
  if (!about.images) return view.replaceChildren(hero(about), emptyCollection());
  const tiles = el(
    "ul.tiles",
    { "aria-busy": "true" },
    ...Array.from({ length: TILES }, () => el("li.tile.bone", { "aria-hidden": "true" })),
  );
  const begin = el("section.page.begin", el("h2", "Start with a tag"), tiles);
  view.replaceChildren(hero(about), begin, ways());
  fillTiles(tiles, begin, open).catch((error) => {
    built = null;
    begin.replaceChildren(
      el("h2", "Start with a tag"),
      trouble(error, () => showStart(about, open)),
    );
  });
}

/** Show that the collection itself cannot be reached. */
export function showStartTrouble(error, retry) {
  built = null;
  view.replaceChildren(el("div.page.lone", el("h1.unseen", "tagger"), trouble(error, retry)));
}

function hero(about) {
  const stat = (name, value, small) => el("div", el("dt", name), el("dd", value, small && el("small", small)));
  const recall = (about.recall_at_10 ?? 1) === 1 ? "exact" : `finds ${percent(about.recall_at_10)} of the 10 nearest`;
  return el(
    "div.hero",
    el(
      "div.page",
      el("h1", { tabindex: "-1" }, bdi(about.name)),
      el("p.lead", "Search by tag, by a picture of your own, or by what you like."),
      about.catalog && productsLink(about.catalog),
      el(
        "dl.stats",
        stat("Pictures", count(about.images)),
        stat("Different tags", count(about.tags)),
        stat("Index", ago(about.age_s), `${about.index_kind}, ${recall}`),
        stat("Model", el("span.model", shown(about.model))),
      ),
      about.behind &&
        el("p.behind", icon("eye"), el("span", `${sentence(shown(about.behind))} What is newer is not found yet.`)),
    ),
  );
}

function productsLink({ products }) {
  const there = newQuery({ products: true });
  const attributes = { href: linkTo(there), onclick: inPage(() => go(there)) };
  return el("a.main.to-products", attributes, `Look through ${plural(products, "product")}`, icon("right"));
}

async function fillTiles(list, section, open) {
  const found = await tags("", TILES + SPARE);
  if (!found.length) return section.remove();
  const samples = await sampleIds(found).catch(() => new Map()); // tags without pictures still lead on
  const chosen = [...found.filter(({ tag }) => samples.has(tag)), ...found.filter(({ tag }) => !samples.has(tag))];
  list.replaceChildren(...chosen.slice(0, TILES).map((row) => tile(row, samples.get(row.tag), open)));
  list.removeAttribute("aria-busy");
}

// One request for all tags. A picture that stands for one tag does not stand for the next: cat, pet and animal
// would be three times the same.
async function sampleIds(found) {
  const results = await searchAll(found.map(({ tag }) => ({ tag, k: CHOICES, fold: true })));
  const samples = new Map();
  const used = new Set();
  results.forEach(({ matches = [] }, n) => {
    const match = matches.find(({ image_id: id }) => !used.has(id));
    if (!match) return;
    used.add(match.image_id);
    samples.set(found[n].tag, match.image_id);
  });
  return samples;
}

function tile({ tag, count: images }, sample, open) {
  const attributes = { href: linkTo(newQuery({ tag })), onclick: inPage(() => open(tag)) };
  const box = el("span.box", sample && thumbnail(sample, SIZES.card, ""));
  const label = el("span.label", bdi(tag), el("span.number", plural(images, "picture")));
  return el("li.tile", el("a", attributes, box, label));
}

function ways() {
  const way = (sign, title, text) => el("li", icon(sign), el("h3", title), el("p.soft", text));
  return el(
    "section.page.ways",
    el("h2", "Three ways to find pictures"),
    el(
      "ul",
      way("tag", "By tag", "Type what you look for. A tag finds everything below it: dog finds every breed."),
      way(
        "picture",
        "By picture",
        "Drop a picture anywhere on this page, paste one, or choose a file. It is not stored.",
      ),
      way("like", "By taste", "Like some pictures and dislike others; recommendations follow, each with its reason."),
    ),
  );
}

function emptyCollection() {
  const text = "Tag some pictures and index them; this page shows them after a reload.";
  const box = panel("This collection has no pictures yet", text, [["Reload", () => location.reload()]], "picture");
  box.insertBefore(
    el("p.commands", el("code", "tagger tag SOURCE COLLECTION"), el("code", "tagger index COLLECTION")),
    box.lastChild,
  );
  return el("div.page.lone", box);
}
