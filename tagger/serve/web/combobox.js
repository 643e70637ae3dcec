// Completion of tags in the search bar: the combobox with a listbox of the ARIA practices. The focus stays in
// the input; arrows move the active option, Enter takes it or the text as it stands, Escape closes.

import { tags } from "./api.js";
import { $, bdi, count, el, shown } from "./dom.js";

const MOST = 8;
const PAUSE_MS = 90; // of the fingers, before the server is asked
const input = $("words");
const panel = $("suggest");
const list = $("completions");
const nothing = $("no-completion");
let take = () => {};
let asked = null; // the request on its way
let later = 0; // the timer that will ask
let active = -1;

export function startCombobox(onTake) {
  take = onTake;
  input.addEventListener("input", () => {
    dropStale();
    clearTimeout(later);
    later = setTimeout(complete, PAUSE_MS);
  });
  input.addEventListener("click", () => panel.hidden && complete());
  input.addEventListener("keydown", onKey);
  input.addEventListener("blur", close);
  // The list would lose the click to the input's blur.
  panel.addEventListener("pointerdown", (event) => event.preventDefault());
  list.addEventListener("click", (event) => choose(event.target.closest("[role=option]")));
  $("search").addEventListener("submit", (event) => {
    event.preventDefault();
    choose(options()[active]);
  });
}

const options = () => [...list.children];

async function complete() {
  asked?.abort();
  asked = new AbortController();
  const prefix = input.value.trim();
  let found;
  try {
    found = await tags(prefix, MOST, asked.signal);
  } catch {
    return; // the search itself tells what is wrong
  }
  if (document.activeElement !== input || prefix !== input.value.trim()) return;
  const word = options()[active]?.word; // what was gone to already stays active
  list.replaceChildren(...found.map((tag, n) => option(tag, n, prefix)));
  activate(found.findIndex(({ tag }) => tag === word));
  list.hidden = !found.length;
  nothing.hidden = found.length > 0;
  nothing.textContent = `No tag begins with “${shown(prefix)}”.`;
  panel.hidden = !found.length && !prefix;
  input.setAttribute("aria-expanded", String(found.length > 0));
}

// Until the answer is there, nothing is offered that does not go with the text any more.
function dropStale() {
  const prefix = input.value.trim().toLowerCase();
  for (const node of options()) if (!` ${node.word}`.toLowerCase().includes(` ${prefix}`)) node.remove();
  activate(-1);
}

function option({ tag, parent, count: images }, n, prefix) {
  const text = shown(tag);
  // The prefix begins the tag or a word in it.
  const at = prefix ? ` ${text}`.toLowerCase().indexOf(` ${prefix.toLowerCase()}`) : -1;
  const end = at < 0 ? 0 : at + prefix.length;
  const name = el(
    "bdi.name",
    text.slice(0, Math.max(0, at)),
    el("b", text.slice(Math.max(0, at), end)),
    text.slice(end),
  );
  const where = parent && el("span.soft", "in ", bdi(parent));
  const much = el("span.number.soft", count(images), el("span.unseen", " pictures"));
  const node = el("li", { role: "option", id: `completion-${n}`, "aria-selected": "false" }, name, where, much);
  node.word = tag;
  return node;
}

function onKey(event) {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (step && !event.altKey) {
    event.preventDefault();
    if (panel.hidden) complete();
    else activate(active + step);
  } else if (event.key === "Escape" && !panel.hidden) {
    event.preventDefault();
    close();
  } else if (event.key === "Escape") {
    input.value = "";
  }
}

// Before the first and after the last comes the input itself, with the text as it was typed.
function activate(n) {
  const all = options();
  active = n < -1 ? all.length - 1 : n >= all.length ? -1 : n; // -1 as well if there are none
  all.forEach((node, place) => node.setAttribute("aria-selected", String(place === active)));
  if (active < 0) return input.removeAttribute("aria-activedescendant");
  input.setAttribute("aria-activedescendant", all[active].id);
  all[active].scrollIntoView({ block: "nearest" });
}

function choose(node) {
  const word = node?.word ?? input.value.trim();
  if (!word) return;
  close();
  input.value = "";
  take(word);
}

export function close() {
  clearTimeout(later);
  asked?.abort();
  panel.hidden = true;
  active = -1;
  input.setAttribute("aria-expanded", "false");
  input.removeAttribute("aria-activedescendant");
}
