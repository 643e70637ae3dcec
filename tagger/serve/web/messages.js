// What the page says when something is wrong or missing: a notice under the search bar, and panels that take
// the place of results. Each tells the next step.

import { Problem } from "./api.js";
import { $, button, el, icon } from "./dom.js";

/** Show a sentence under the search bar until it is closed or the next search begins. Returns nothing. */
export function notify(text) {
  const close = button(".icon-button", { "aria-label": "Close this message", onclick: quiet }, icon("close"));
  $("notice").replaceChildren(el("div.notice", el("p", text), close));
}

export function quiet() {
  $("notice").replaceChildren();
}

/** A panel with a title, a sentence and buttons: `[text, onclick]`, the first of them the likely one. */
export function panel(title, text, actions = [], sign = "search") {
  const buttons = actions.map(([label, onclick], n) => button(n ? ".plain" : ".main", { onclick }, label));
  const lines = text.split("\n").map((line) => el("p", line));
  return el("div.panel", icon(sign), el("h2", title), ...lines, el("div.actions", ...buttons));
}

/** The panel for an error, with a way to try again where that can help. */
export function trouble(error, retry, others = []) {
  const known = error instanceof Problem;
  const again = ["Try again", retry];
  if (known && error.status === 0)
    return panel("No connection to the server", error.message, [again, ...others], "gone");
  if (known && (error.status === 429 || error.status === 503))
    return panel("The server is busy", error.message, [again, ...others]);
  if (known && error.status === 401)
    return panel("This server asks for an API key", "Whoever runs it can give you one.", [["Enter a key", retry]]);
  if (known && error.status < 500)
    return panel(titleOf(error.status), sentence(error.message), others.length ? others : [again]);
  return panel(
    "That did not work",
    known ? sentence(error.message) : "The page met an error of its own. Reload it.",
    [again, ...others],
    "gone",
  );
}

function titleOf(status) {
  return (
    { 404: "Not found", 410: "The picture is gone", 413: "The picture is too large" }[status] ??
    "The search was not understood"
  );
}

/** Details of the API begin in lower case and end without a full stop. */
export function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}
