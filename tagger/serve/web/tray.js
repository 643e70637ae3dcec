// What was liked and disliked: the buttons on pictures, and the tray at the bottom with the way to
// recommendations. It lives as long as the tab, for each collection by itself.

import { $, bdi, button, el, icon, nameOf, plural } from "./dom.js";
import { SIZES, thumbnail } from "./pictures.js";

const WORDS = { like: ["Like", "Liked"], dislike: ["Dislike", "Disliked"] };
let place = null;
let recommend = () => {};
let votes = new Map(); // id → "like" | "dislike"

/** `onRecommend()` is called by the tray's button. */
export function startTray(collection, onRecommend) {
  place = `tagger.votes:${collection}`;
  recommend = onRecommend;
  try {
    votes = new Map(JSON.parse(sessionStorage.getItem(place) ?? "[]"));
  } catch {
    votes = new Map();
  }
  refresh();
}

export const liked = () => of("like");
export const disliked = () => of("dislike");

/** Take back everything. */
export function clearTray() {
  votes.clear();
  save();
}

const of = (vote) => [...votes].filter(([, given]) => given === vote).map(([id]) => id);

/** The two buttons of a picture. With `named` their text is shown, too. */
export function voteButtons(id, named = false) {
  const one = (vote) => {
    const [word] = WORDS[vote];
    const toggle = button(
      `.vote.${vote}`,
      {
        "aria-pressed": String(votes.get(id) === vote),
        "aria-label": `${word} ${nameOf(id)}`,
        title: word,
        onclick: () => set(id, vote),
      },
      icon(vote),
      named && el("span", word),
    );
    toggle.votesFor = [id, vote];
    return toggle;
  };
  return el("div.votes", { role: "group", "aria-label": `Your opinion of ${nameOf(id)}` }, one("like"), one("dislike"));
}

function set(id, vote) {
  if (votes.get(id) === vote) votes.delete(id);
  else votes.set(id, vote);
  save();
}

function save() {
  try {
    sessionStorage.setItem(place, JSON.stringify([...votes]));
  } catch {
    // full or forbidden: the tray then lives as long as the page
  }
  refresh();
}

function refresh() {
  for (const toggle of document.querySelectorAll(".vote")) {
    const [id, vote] = toggle.votesFor;
    toggle.setAttribute("aria-pressed", String(votes.get(id) === vote));
  }
  const tray = $("tray");
  const hadFocus = tray.contains(document.activeElement);
  tray.hidden = !votes.size;
  document.body.classList.toggle("has-tray", votes.size > 0);
  tray.replaceChildren(el("div.page.tray-row", el("div.picked", pile("like"), pile("dislike")), buttons()));
  if (hadFocus) (tray.querySelector("button") ?? $("main")).focus();
}

function pile(vote) {
  const ids = of(vote);
  if (!ids.length) return null;
  const [, word] = WORDS[vote];
  const remove = (id) =>
    el(
      "li",
      button(
        ".token",
        {
          "aria-label": `${nameOf(id)}: ${word.toLowerCase()}, take it back`,
          title: nameOf(id),
          onclick: () => set(id, vote),
        },
        thumbnail(id, SIZES.tiny, ""),
        icon("close"),
      ),
    );
  return el(
    `div.pile.${vote}`,
    icon(vote),
    el("ul", { "aria-label": `${word}: ${plural(ids.length, "picture")}` }, ...ids.map(remove)),
  );
}

function buttons() {
  const ready = liked().length > 0;
  return el(
    "div.tray-buttons",
    !ready && el("span.soft", "Like a picture, too"),
    button(".plain", { onclick: clearTray }, "Clear"),
    button(".main", { disabled: !ready, onclick: () => recommend() }, icon("spark"), "Recommend"),
  );
}

/** The reason of a recommendation, with the liked picture it resembles. */
export function because(id, open) {
  return button(
    ".because",
    { onclick: open },
    thumbnail(id, SIZES.tiny, ""),
    el("span", "because you liked ", bdi(nameOf(id))),
  );
}
