// Asks the server for what the state says, and shows it: title, grid, pages as one scrolls, and what to do when
// there is nothing. Results seen before are kept, so that Back is immediate and lands where one was.

import { recommend, search, searchPicture } from "./api.js";
import { $, announce, bdi, button, el, icon, nameOf, percent, plural, shown, slider } from "./dom.js";
import { CLEARED, openSheet, showChips, showFacets } from "./facets.js";
import { MEANINGS, addCards, busy, clearGrid, showCards, showSkeletons } from "./grid.js";
import { panel, sentence, trouble } from "./messages.js";
import { SIZES, showBlob, thumbnail } from "./pictures.js";
import { filterOf, go, isNarrowed, keyOf, newQuery, pictureOf, state } from "./state.js";
import { clearTray, disliked, liked } from "./tray.js";

const PAGE = 24;
const KEPT = 12;
const MOST_LIKED = 100; // the API takes no more; the latest say most
const kept = new Map(); // key of a state → what was found
let about = null;
let now = null; // what is on show: {key, matches, next, scroll}
let asked = null; // the request on its way
const nearEnd = new IntersectionObserver((entries) => entries.some((entry) => entry.isIntersecting) && loadMore(), {
  rootMargin: "900px",
});

export function startResults(collection) {
  about = collection;
}

/** Show the results of the state. With `again` the server is asked even if they are known. */
export async function showResults({ again = false, narrowed = false } = {}) {
  const some = state();
  const key = keyOf(some) + (some.recommend ? JSON.stringify([liked(), disliked()]) : "");
  if (now?.key === key && !again) return;
  leaveResults();
  asked = new AbortController();
  showTitle(some);
  showTools(some);
  showChips();
  $("results").classList.remove("bare");
  const known = again ? null : kept.get(key);
  if (known) return restore(known);
  if (!narrowed) toTop();
  if (some.picture && !pictureOf(some)) return showProblem(pictureGone());
  if (some.recommend && !liked().length) return showProblem(nothingLiked());
  begin(narrowed);
  const { signal } = asked;
  try {
    const page = await ask(some, 0, signal);
    if (!signal.aborted) show({ key, matches: page.matches, next: page.next_offset, scroll: 0 });
  } catch (error) {
    if (!signal.aborted) showProblem(problemOf(error, some));
  }
}

function toTop() {
  scrollTo(0, 0);
  $("side").scrollTop = 0;
}

/** Remember what is on show and stop waiting for more of it. */
export function leaveResults() {
  asked?.abort();
  nearEnd.disconnect();
  if (now) now.scroll = scrollY;
  now = null;
}

/** The match of an image among those on show, if it is there. */
export const matchOf = (id) => now?.matches.find((match) => match.image_id === id) ?? null;

function begin(narrowed) {
  $("trouble").replaceChildren();
  $("more").replaceChildren();
  if (narrowed && $("grid").children.length) busy(true);
  else showSkeletons();
  announce("Searching");
}

function show(found) {
  now = found;
  kept.delete(found.key);
  kept.set(found.key, found);
  if (kept.size > KEPT) kept.delete(kept.keys().next().value);
  $("trouble").replaceChildren();
  showCards(found.matches, meaning());
  showFacets(found.matches, found.next === null);
  if (!found.matches.length) showProblem(noResults(), true);
  settle();
}

function restore(found) {
  show(found);
  scrollTo(0, found.scroll);
}

function settle() {
  const { matches, next } = now;
  showMore();
  if (!matches.length) return;
  $("said").textContent = `${saying(matches.length, next)}, ${MEANINGS[meaning()][0]}`;
  announce(saying(matches.length, next));
}

const saying = (n, next) => (next === null ? plural(n, "picture") : `The first ${plural(n, "picture")}`);
const meaning = () => (state().recommend ? "recommended" : state().image || state().picture ? "similar" : "tag");

async function ask(some, offset, signal) {
  const filter = filterOf(some);
  const narrowing = filter ? { filter } : {};
  if (some.recommend) {
    const taste = { positive: liked().slice(-MOST_LIKED), negative: disliked().slice(-MOST_LIKED) };
    return recommend({ ...taste, k: PAGE, diversity: some.diversity, ...narrowing }, signal);
  }
  const body = {
    k: PAGE,
    offset,
    ...(some.copies ? {} : { fold: true }),
    ...(some.tag ? { tag: some.tag } : {}),
    ...narrowing,
  };
  const file = pictureOf(some);
  if (file) return searchPicture(file, body, signal);
  return search(some.image ? { image_id: some.image, ...body } : body, signal);
}

function showMore() {
  const box = $("more");
  const { matches, next } = now;
  nearEnd.disconnect();
  if (next === null) {
    const ends = matches.length > PAGE ? "These are all." : "";
    return box.replaceChildren(ends && el("p.soft", ends));
  }
  const most = state().copies ? about.max_offset : about.max_folded_offset;
  if (next > most) return box.replaceChildren(el("p.soft", "Lists end here. Narrow the results to see others."));
  box.replaceChildren(button(".plain", { onclick: loadMore }, "Show more"));
  nearEnd.observe(box);
}

async function loadMore() {
  const found = now;
  const box = $("more");
  nearEnd.disconnect();
  const hadFocus = box.contains(document.activeElement);
  box.replaceChildren(el("p.soft", { "aria-busy": "true" }, "Loading more…"));
  const { signal } = asked;
  try {
    const page = await ask(state(), found.next, signal);
    if (signal.aborted) return;
    const first = found.matches.length;
    // Pages do not overlap, unless a newer index is served since the one before.
    const fresh = page.matches.filter((match) => !matchOf(match.image_id));
    found.matches = [...found.matches, ...fresh];
    found.next = page.next_offset;
    addCards(fresh, meaning());
    showFacets(found.matches, found.next === null);
    settle();
    if (hadFocus) $("grid").children[first]?.querySelector("a").focus();
  } catch (error) {
    if (signal.aborted) return;
    // Not by itself again: it would ask and fail for as long as the end is in sight.
    box.replaceChildren(el("p", sentence(error.message)), button(".plain", { onclick: loadMore }, "Try again"));
    announce("No more pictures could be loaded");
  }
}

function showTitle(some) {
  const name = el("h1", { tabindex: "-1" });
  const preview = el("div.preview");
  if (some.recommend) name.append("Recommended for you");
  else if (some.picture) name.append("Similar to your picture ", bdi(pictureOf(some)?.name ?? ""));
  else if (some.image) name.append("Similar to ", bdi(nameOf(some.image)));
  else name.append(bdi(some.tag));
  if ((some.image || some.picture) && some.tag) name.append(", only ", bdi(some.tag));
  if (pictureOf(some)) {
    const image = el("img", { alt: "" });
    image.addEventListener("error", () => preview.remove());
    showBlob(image, pictureOf(some));
    preview.append(image);
  } else if (some.image) preview.append(thumbnail(some.image, SIZES.card, ""));
  const why = el("p.soft", { id: "said" }, "Searching");
  $("title").replaceChildren(...(preview.firstChild ? [preview] : []), el("div", name, why));
  document.title = `${name.textContent} · ${shown(about.name)}`;
}

function showTools(some) {
  const filters = button(".plain.narrow-only", { onclick: openSheet }, icon("filter"), "Filters");
  $("tools").replaceChildren(filters, some.recommend ? varied(some) : copiesSwitch(some));
}

function copiesSwitch(some) {
  const input = el("input", { type: "checkbox", role: "switch", id: "fold" });
  input.checked = !some.copies;
  input.addEventListener("change", () => go({ copies: !input.checked }));
  return el(
    "label.switch",
    { title: "Show one of several copies of the same picture" },
    input,
    el("span.track", { "aria-hidden": "true" }),
    "Fold copies",
  );
}

function varied(some) {
  const tell = (value) => `${percent(value)} varied`;
  const take = (diversity) => go({ diversity }, { replace: true });
  const { input, show } = slider("How varied the recommendations are", { max: 1, step: 0.1 }, tell, take);
  show(some.diversity);
  return el("div.slider.varied", el("span.soft", "Alike"), input, el("span.soft", "Varied"));
}

function showProblem(box, keepFacets = false) {
  clearGrid();
  $("more").replaceChildren();
  $("trouble").replaceChildren(box);
  if (!keepFacets) showFacets([], true);
  $("said").textContent = "";
  $("results").classList.toggle("bare", !isNarrowed(state()));
  announce(box.querySelector("h2").textContent);
}

const startAgain = ["Back to the start", () => go(newQuery({}))];

function problemOf(error, some) {
  const others = [startAgain];
  // Something in the tray may be gone from the collection since it was liked.
  if (some.recommend && error.status === 404) others.unshift(["Clear the tray", () => [clearTray(), go(newQuery({}))]]);
  if (isNarrowed(some)) others.unshift(["Remove the filters", () => go(CLEARED)]);
  const instead = (some.tag ? (error.similar ?? []) : []).map((word) => [shown(word), () => go(newQuery({ tag: word }))]);
  return trouble(error, () => showResults({ again: true }), [...instead, ...others]);
}

function noResults() {
  if (isNarrowed(state()))
    return panel(
      "Nothing matches all of this",
      "Take back some of what narrows the results.",
      [["Remove the filters", () => go(CLEARED)], startAgain],
      "filter",
    );
  if (state().recommend)
    return panel(
      "Nothing left to recommend",
      "Everything like this is in your tray already, or shows the same picture. Like something else, too.",
      [startAgain],
      "like",
    );
  return panel("Nothing found", "No picture of this collection fits. Try another tag, or a picture.", [startAgain]);
}

const nothingLiked = () =>
  panel(
    "Like a picture first",
    "Recommendations follow from what you like. The heart on every picture puts it into the tray.",
    [startAgain],
    "like",
  );
const pictureGone = () =>
  panel(
    "Your picture is no longer here",
    "Pictures to search with are not stored anywhere. Drop it on this page again.",
    [["Choose a picture", () => $("file").click()], startAgain],
    "picture",
  );
