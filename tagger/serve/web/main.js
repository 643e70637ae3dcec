// Puts the parts together: loads the collection, shows what the address says, and follows every change of it.

import { collection, setHooks } from "./api.js";
import { close as closeCompletions, startCombobox } from "./combobox.js";
import { showDetail, startDetail } from "./detail.js";
import { $, announce, button, el, icon, inPage, nameOf, plural, shown } from "./dom.js";
import { narrow, startFacets } from "./facets.js";
import { startGrid } from "./grid.js";
import { startIntake } from "./intake.js";
import { askForKey } from "./key.js";
import { quiet } from "./messages.js";
import { SIZES, showBlob, thumbnail } from "./pictures.js";
import { leaveResults, showResults, startResults } from "./results.js";
import { showStart, showStartTrouble } from "./start.js";
import { showProduct, startProduct } from "./product.js";
import { leaveProducts, showProducts, startProducts } from "./products.js";
import { go, isSearch, keepPicture, newQuery, onChange, pictureOf, sameResults, state } from "./state.js";
import { startTray } from "./tray.js";

const QUERY = ["tag", "image", "picture", "recommend"];
let about = null;

function render(now, before = null) {
  const searching = isSearch(now);
  if (before?.products && !now.products) leaveProducts(); // while it still knows how far it was scrolled
  if (before) quiet();
  if (before) closeCompletions(); // the first time somebody may be typing already
  $("start").hidden = searching || now.products;
  $("results").hidden = !searching || now.products;
  $("products").hidden = !now.products;
  showQuery(now);
  showViews(now);
  if (!before || !sameResults(now, before)) showView(now, before);
  if (now.open !== (before?.open ?? null)) showDetail(now.open, before?.open);
  if (now.product !== (before?.product ?? null)) showProduct(now.product, before?.product);
  // What had the focus may be gone; from the heading on, the keyboard finds what came instead.
  const heading = $(now.products ? "products-head" : searching ? "title" : "start").querySelector("h1");
  if (before && document.activeElement === document.body) heading?.focus({ preventScroll: true });
}

function showView(now, before) {
  const narrowed = Boolean(before) && QUERY.every((name) => now[name] === before[name]);
  if (before && !narrowed) $("words").value = "";
  if (isSearch(now) && !now.products) return showResults({ narrowed });
  leaveResults();
  if (now.products) return showProducts();
  showStart(about, (tag) => go(newQuery({ tag })));
  document.title = `${shown(about.name)} · tagger`;
  if (before) scrollTo(0, 0);
}

/** The way from pictures to products and back, where a catalog is served. */
function showViews(now) {
  $("views").hidden = !about.catalog && !now.products;
  $("view-pictures").toggleAttribute("aria-current", !now.products);
  $("view-products").toggleAttribute("aria-current", now.products);
  $("skip").textContent = now.products ? "Skip to the products" : "Skip to the pictures";
  $("main").setAttribute("aria-label", now.products ? "Products" : "Pictures");
}

/** The chips in the search bar: what is searched for, each with its x. */
function showQuery(now) {
  const chip = (picture, text, rest) => {
    const remove = () => {
      go(newQuery(rest));
      $("words").focus();
    };
    const close = button(".clear", { "aria-label": `Clear ${text}`, title: "Clear", onclick: remove }, icon("close"));
    return el("span.query-chip", picture, el("bdi.name", text), close);
  };
  const tag = now.tag && chip(icon("tag"), shown(now.tag), { image: now.image, picture: now.picture });
  const file = pictureOf(now);
  const image = now.image && chip(thumbnail(now.image, SIZES.tiny, ""), nameOf(now.image), { tag: now.tag });
  const picture = file && chip(preview(file), shown(file.name), { tag: now.tag });
  const taste = now.recommend && chip(icon("like"), "your taste", {});
  $("query").replaceChildren(...[image, picture, tag, taste].filter(Boolean));
  $("words").placeholder = placeholder(image || picture, tag || taste);
}

function placeholder(pictured, worded) {
  if (matchMedia("(max-width: 620px)").matches) return pictured || worded ? "Tag" : "Type a tag";
  return pictured ? "Add a tag" : worded ? "Another tag" : "Type a tag, or drop a picture";
}

// Some formats the server reads are none the browser can show.
function preview(file) {
  const image = el("img", { alt: "" });
  image.addEventListener("error", () => image.replaceWith(icon("picture")));
  showBlob(image, file);
  return image;
}

/** A tag beside a picture narrows that search; otherwise it begins one. */
function takeTag(tag) {
  const { image, picture } = state();
  go(newQuery({ tag, image, picture: picture && pictureOf(state()) ? picture : null }));
  if (matchMedia("(hover: none)").matches) $("words").blur(); // the keyboard would cover the results
}

const takePicture = (file) => go(newQuery({ picture: keepPicture(file) }));

function startKeys() {
  addEventListener("keydown", (event) => {
    const typing = event.target.closest?.("input, textarea, select, dialog");
    if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    $("words").focus();
  });
  $("skip").addEventListener("click", (event) => {
    event.preventDefault(); // the fragment is the state
    $("main").focus();
  });
  $("brand").addEventListener(
    "click",
    inPage(() => go(newQuery({}))),
  );
  $("view-pictures").addEventListener(
    "click",
    inPage(() => go(newQuery({}))),
  );
  $("view-products").addEventListener(
    "click",
    inPage(() => go(newQuery({ products: true }))),
  );
}

async function load() {
  try {
    about = await collection();
  } catch (error) {
    $("start").hidden = false;
    showStartTrouble(error, load);
    announce("The collection cannot be shown");
    return;
  }
  startResults(about);
  startDetail(about);
  startProducts(about);
  startProduct();
  startFacets(about.colors);
  startTray(about.name, recommend);
  onChange(render);
  render(state());
}

// The address may be the same; the tray may have changed since.
function recommend() {
  if (state().recommend) showResults();
  else go(newQuery({ recommend: true }));
}

history.scrollRestoration = "manual"; // results.js knows better: it draws the pictures before it scrolls
$("go").append(icon("search"));
$("choose").prepend(icon("picture"));
setHooks({
  askForKey,
  waiting: (seconds) => announce(`The server is busy. Trying again in ${plural(seconds, "second")}.`),
});
startKeys();
startCombobox(takeTag);
startIntake(() => about?.max_picture_bytes, takePicture);
startGrid({ open: (id) => go({ open: id }), narrow, copies: () => go({ copies: true }) });
load();
