// What may be the matter with a product's pictures, in the words of people who look after a catalog.

import { bdi, nameOf, shown } from "./dom.js";

const WORDS = {
  blurred: "Blurred",
  too_small: "Too small",
  too_dark: "Too dark",
  duplicate_of: "Same picture twice",
  looks_unlike_its_category: "Unlike its category",
  image_missing: "Picture missing",
  image_failed: "Picture unreadable",
};

export const flagWord = (flag) => WORDS[flag] ?? shown(flag).replaceAll("_", " ");

/** What is told of a flag: nodes for a line. `toProduct(id)` makes a link to another product. */
export function flagDetail({ flag, image, detail }, toProduct) {
  if (flag === "duplicate_of") return ["also shown by ", toProduct(detail)];
  const told = detail ? shown(detail).replace(/(\d)%/g, "$1\u00a0%") : "";
  if (!image) return [told];
  return told ? [bdi(nameOf(image)), `: ${told}`] : [bdi(nameOf(image))];
}
