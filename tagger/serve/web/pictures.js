// Pictures of the collection. Without a key they are plain <img>; with one they are fetched, because an <img>
// sends no Authorization. One that cannot be shown becomes a sign that says so.

import { blob, hasKey, thumbnailUrl } from "./api.js";
import { el, icon } from "./dom.js";

const DENSE = devicePixelRatio > 1.25;
const waiting = new WeakMap(); // image → address, until it comes near
const near = new IntersectionObserver(load, { rootMargin: "600px" });

/** Sizes of thumbnails in pixels; few, so that the server's and the browser's caches serve several places. */
export const SIZES = { tiny: 96, card: DENSE ? 640 : 384, large: 1024 };

export function thumbnail(id, size, alt) {
  return picture(thumbnailUrl(id, size), alt);
}

export function picture(address, alt) {
  // Not draggable: dropped on this page it would be a search for a smaller copy of itself.
  const image = el("img", { alt, loading: "lazy", decoding: "async", draggable: "false" });
  image.addEventListener("error", () => image.replaceWith(gone(alt)));
  if (hasKey()) {
    waiting.set(image, address);
    near.observe(image);
  } else image.src = address;
  return image;
}

/** Show a blob in an image; its address is given back once it is drawn. */
export function showBlob(image, data) {
  const address = URL.createObjectURL(data);
  const release = () => URL.revokeObjectURL(address);
  image.addEventListener("load", release, { once: true });
  image.addEventListener("error", release, { once: true });
  image.src = address;
}

/** Fetch an address and show it, key or not. */
export async function showAddress(image, address) {
  if (hasKey()) showBlob(image, await blob(address));
  else image.src = address;
}

function load(entries) {
  for (const { target, isIntersecting } of entries) {
    if (!isIntersecting) continue;
    near.unobserve(target);
    showAddress(target, waiting.get(target)).catch(() => target.replaceWith(gone(target.alt)));
  }
}

function gone(alt) {
  const named = alt && { role: "img", "aria-label": `${alt} (the picture is not available)` };
  return el("span.gone", { title: "The picture is not available", ...named }, icon("gone"));
}
