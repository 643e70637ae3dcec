// Helpers that build the page. Names, ids and tags may be hostile, so everything goes in as text or as an
// attribute, never as markup.

const SVG = "http://www.w3.org/2000/svg";
const ICONS = {
  search: "M11 4a7 7 0 1 1 0 14 7 7 0 0 1 0-14zM20 20l-4-4",
  picture:
    "M4 6.5A1.5 1.5 0 0 1 5.5 5h13A1.5 1.5 0 0 1 20 6.5v11a1.5 1.5 0 0 1-1.5 1.5h-13A1.5 1.5 0 0 1 4 17.5zM4.5 17.5l5-5.5 4 4.5 2.5-2.5 3.5 3.5M15.5 9.2h.01",
  close: "M6.5 6.5l11 11M17.5 6.5l-11 11",
  like: "M12 20s-7.5-4.6-7.5-10A4.2 4.2 0 0 1 12 7.4 4.2 4.2 0 0 1 19.5 10c0 5.4-7.5 10-7.5 10z",
  dislike:
    "M7.5 4.5v9.5h-3V4.5zM7.5 14l3.6 6c1.5 0 2.5-1.2 2.2-2.6L12.7 14H18a2 2 0 0 0 2-2.4l-1.1-5.5a2 2 0 0 0-2-1.6H7.5",
  filter: "M4 7h16M7 12h10M10 17h4",
  copy: "M9 9h10.5v10.5H9zM5 15H4.5V4.5H15V5",
  check: "M5 12.5l4.5 4.5L19 7.5",
  eye: "M2.5 12S6 5.5 12 5.5 21.5 12 21.5 12 18 18.5 12 18.5 2.5 12 2.5 12zM12 9.2a2.8 2.8 0 1 0 0 5.6 2.8 2.8 0 0 0 0-5.6z",
  exclude: "M12 4a8 8 0 1 0 0 16 8 8 0 0 0 0-16zM8.5 12h7",
  left: "M14.5 5.5L8 12l6.5 6.5",
  right: "M9.5 5.5L16 12l-6.5 6.5",
  spark: "M11 4l1.9 5.6 5.6 1.9-5.6 1.9L11 19l-1.9-5.6L3.5 11.5l5.6-1.9zM19 15.5v4M17 17.5h4",
  tag: "M4 5.5A1.5 1.5 0 0 1 5.5 4h6l8.5 8.5-7.5 7.5L4 11.5zM8.5 8.5h.01",
  warn: "M12 4.5l8.5 15h-17zM12 10v4.5M12 17h.01",
  save: "M12 4v10.5M7.5 10.5L12 15l4.5-4.5M5 19.5h14",
  undo: "M8.5 5L4.5 9l4 4M4.5 9H14a5.5 5.5 0 0 1 0 11h-3.5",
  gone: "M4 4l16 16M8 5h10.5A1.5 1.5 0 0 1 20 6.5V16M18 19H5.5A1.5 1.5 0 0 1 4 17.5V6.5M4.5 17.5l5-5.5 4.5 5",
};

export const $ = (id) => document.getElementById(id);

/**
 * Make an element: `el("p.soft.small", { title: "…" }, child, …)`, attributes only where there are some.
 * Those that begin with `on` are listeners; children and attributes that are null or false are left out.
 */
export function el(kind, ...rest) {
  const [tag, ...classes] = kind.split(".");
  const hasAttributes = rest[0] && Object.getPrototypeOf(rest[0]) === Object.prototype;
  const [attributes, ...children] = hasAttributes ? rest : [{}, ...rest];
  const node = document.createElement(tag);
  if (classes.length) node.className = classes.join(" ");
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child != null && child !== false));
  return node;
}

export function button(kind, attributes, ...children) {
  return el(`button${kind}`, { type: "button", ...attributes }, ...children);
}

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  const attributes = { class: "icon", viewBox: "0 0 24 24", width: 20, height: 20, "aria-hidden": "true" };
  for (const [key, value] of Object.entries(attributes)) svg.setAttribute(key, value);
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

// Controls, and marks that turn the reading direction: `evil\u202Egpj.exe` must not read as `evilexe.jpg`.
const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g;

export function shown(text) {
  return String(text).replace(UNSEEN, (mark) => {
    const code = mark.charCodeAt(0);
    return code < 256 ? `\\x${code.toString(16).padStart(2, "0")}` : `\\u${code.toString(16).padStart(4, "0")}`;
  });
}

/** The last part of an id's path, which is what people call the picture. */
export function nameOf(id) {
  return shown(id.split("/").filter(Boolean).pop() ?? id);
}

/** A name among other text: its writing direction stays its own. */
export function bdi(text, kind = "") {
  return el(`bdi.name${kind}`, shown(text));
}

/** The head of a dialog about one of a list: its heading, the one before, the next, close. */
export function dialogHead({ heading, ids, id, turns, step, close }) {
  const at = ids.indexOf(id);
  const turn = (by, name, text) =>
    button(
      ".icon-button",
      { "data-turn": by, "aria-label": text, title: text, disabled: at < 0 || !ids[at + by], onclick: () => step(by) },
      icon(name),
    );
  return el(
    "header",
    heading,
    turn(-1, "left", turns[0]),
    turn(1, "right", turns[1]),
    button(".icon-button.close", { "aria-label": "Close", title: "Close", onclick: close }, icon("close")),
  );
}

export const percent = (share) => `${Math.round(Math.max(0, share) * 100)}\u00a0%`;
export const count = (n) => n.toLocaleString("en");
export const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;

export function megabytes(bytes) {
  const mb = bytes / (1 << 20);
  return `${mb < 10 ? mb.toFixed(1) : Math.round(mb)} MB`;
}

export function ago(seconds) {
  const steps = [
    [86400, "day"],
    [3600, "hour"],
    [60, "minute"],
  ];
  for (const [length, word] of steps) {
    if (seconds >= length) return `${plural(Math.floor(seconds / length), word)} ago`;
  }
  return "just now";
}

/** For links: a plain click stays on this page, one with a modifier opens a tab as everywhere. */
export function inPage(work) {
  return (event) => {
    if (event.metaKey || event.ctrlKey || event.shiftKey) return;
    event.preventDefault();
    work();
  };
}

/** A range input: `tell(value)` gives its text, which `take(value)` goes with once it is let go. */
export function slider(label, { min = 0, max, step }, tell, take) {
  const input = el("input", { type: "range", min, max, step, "aria-label": label });
  const show = (value) => {
    input.value = value;
    input.setAttribute("aria-valuetext", tell(Number(input.value)));
  };
  input.addEventListener("input", () => show(input.value));
  input.addEventListener("change", () => take(Number(input.value)));
  return { input, show };
}

/** Tell screen readers, without moving the focus. */
export function announce(text) {
  $("live").textContent = text;
}
