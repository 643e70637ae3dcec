// What the page shows, kept in the fragment of its address: back, forward, reload and shared links work, and no
// server is sent it. Uploaded pictures live only as long as the page.

const EMPTY = {
  tag: null, // words searched for
  image: null, // an image of the collection searched with
  picture: null, // an uploaded picture searched with, a key of `pictures`
  recommend: false, // recommendations from the tray
  diversity: 0.3,
  all: [], // tags that narrow
  none: [], // tags left out
  color: null,
  score: 0, // least score of a tag that counts, in per cent
  width: 0,
  height: 0,
  copies: false, // show copies of one picture one by one
  open: null, // the image of the detail panel
  products: false, // the catalog's products instead of pictures
  flag: null, // only products with it
  category: null, // only products of it
  q: null, // only products with these words
  decided: null, // "no": only products of which nothing was decided; "yes": the others
  product: null, // the product of the detail panel
};
const TEXTS = ["tag", "image", "picture", "color", "open", "flag", "category", "q", "decided", "product"];
const SWITCHES = ["recommend", "copies", "products"];
const SHARED_NUMBERS = { diversity: 0.3, score: 0, width: 0, height: 0 };

const pictures = new Map();
let show = () => {};
let now = read(location.hash);

export const state = () => now;
export const isSearch = (some) => Boolean(some.tag || some.image || some.picture || some.recommend);
export const isNarrowed = (some) => Boolean(filterOf(some));
export const pictureOf = (some) => pictures.get(some.picture) ?? null;

/** A new search: what narrowed the one before is gone, how copies are shown stays. */
export const newQuery = (query) => ({ ...EMPTY, copies: now.copies, ...query });

/** Two states with the same key show the same results. */
export const keyOf = (some) => write({ ...some, open: null, product: null });

/** An address for links; not only a fragment, which would read as a place on this page. */
export const linkTo = (some) => `./${write(some)}`;

export const sameResults = (one, other) => keyOf(one) === keyOf(other);

/** `render(state, before)` is called for every change, also by the browser's buttons. */
export function onChange(render) {
  show = render;
}

addEventListener("popstate", () => change(read(location.hash)));

export function keepPicture(file) {
  const name = `p${Date.now().toString(36)}`;
  pictures.set(name, file);
  return name;
}

/** Go to a state: a new step in the browser's history, or with `replace` the step it is on. */
export function go(changes, { replace = false } = {}) {
  const next = { ...now, ...changes };
  const depth = depthOf(next);
  // An empty fragment would leave `#` behind.
  const address = write(next) || location.pathname + location.search;
  if (write(next) === write(now)) return;
  if (replace) history.replaceState(history.state, "", address);
  else history.pushState({ depth }, "", address);
  change(next);
}

/** Close the detail panel: back to the step it was opened from, or in place if a link opened it. */
export function closeDetail() {
  const depth = history.state?.depth ?? 0;
  if (depth) history.go(-depth);
  else go({ open: null, product: null }, { replace: true });
}

// How many steps back the panel was closed; 0 when it is closed, or when nobody knows.
function depthOf(next) {
  if (!next.open && !next.product) return 0;
  if (!now.open && !now.product) return 1;
  const depth = history.state?.depth ?? 0;
  return depth && depth + 1;
}

function change(next) {
  const before = now;
  now = next;
  show(now, before);
}

function write(some) {
  const query = new URLSearchParams();
  for (const name of TEXTS) if (some[name]) query.set(name, some[name]);
  for (const name of SWITCHES) if (some[name]) query.set(name, "1");
  for (const name of ["all", "none"]) for (const word of some[name]) query.append(name, word);
  for (const [name, usual] of Object.entries(SHARED_NUMBERS)) if (some[name] !== usual) query.set(name, some[name]);
  const text = query.toString();
  return text && `#${text}`;
}

function read(hash) {
  const query = new URLSearchParams(hash.replace(/^#/, ""));
  const found = { ...EMPTY };
  for (const name of TEXTS) found[name] = query.get(name) || null;
  for (const name of SWITCHES) found[name] = query.has(name);
  for (const name of ["all", "none"]) found[name] = [...new Set(query.getAll(name))];
  for (const [name, usual] of Object.entries(SHARED_NUMBERS)) {
    const value = Number(query.get(name) ?? usual);
    found[name] = Number.isFinite(value) && value >= 0 ? value : usual;
  }
  return found;
}

/** The filter as the API wants it; null when nothing narrows. */
export function filterOf(some) {
  const filter = {};
  if (some.all.length) filter.tags_all = some.all;
  if (some.none.length) filter.tags_none = some.none;
  if (some.color) filter.color = some.color;
  if (some.score) filter.min_score = Math.min(1, some.score / 100);
  if (some.width) filter.min_width_px = Math.round(some.width);
  if (some.height) filter.min_height_px = Math.round(some.height);
  return Object.keys(filter).length ? filter : null;
}
