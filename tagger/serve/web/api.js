// The HTTP API: one function a question. Adds the key if there is one, asks for it when the server wants one,
// waits once when the server is busy, and turns every failure into a Problem that says what to do.

const KEY = "tagger.key";
const LONGEST_WAIT_S = 30;

/** Why a request failed. `status` is 0 when the server did not answer at all. */
export class Problem extends Error {
  constructor(status, detail, similar = []) {
    super(detail);
    this.status = status;
    this.similar = similar;
  }
}

let key = sessionStorage.getItem(KEY);
let asking = null;
const hooks = { askForKey: async () => null, waiting: () => {} };

export const hasKey = () => Boolean(key);

/** `askForKey(wasWrong)` gives a key or null; `waiting(seconds)` may tell the person why nothing happens. */
export function setHooks(given) {
  Object.assign(hooks, given);
}

export const collection = () => json("v1/collection");
export const tags = (prefix, limit, signal) => json(withQuery("v1/tags", { prefix, limit }), { signal });
export const image = (id, signal) => json(withQuery("v1/image", { id }), { signal });
export const search = (body, signal) => post("v1/search", body, signal);
export const searchAll = async (queries) => (await post("v1/search/batch", { queries })).results;
export const recommend = (body, signal) => post("v1/recommend", body, signal);
export const pictureUrl = (id) => withQuery("v1/image", { id });
export const thumbnailUrl = (id, size) => withQuery("v1/image/thumbnail", { id, size });
export const explain = (id, tag, size) => blob(withQuery("v1/image/explain", { id, tag, size }));

export const products = (query, signal) => json(withQuery("v1/products", query), { signal });
export const product = (id, signal) => json(withQuery("v1/product", { id }), { signal });
export const decide = (decisions) => post("v1/decisions", { decisions });
export const labelsUrl = "v1/decisions";
export const exportUrl = (query) => withQuery("v1/products/export", query);

export async function blob(path) {
  return (await request(path, { headers: { Accept: "image/*" } })).blob();
}

/** Search with a picture file. `body` is as for `search`; the file goes with it as a form. */
export async function searchPicture(file, body, signal) {
  const form = new FormData();
  form.append("file", file);
  for (const [name, value] of Object.entries(body)) {
    form.append(name, typeof value === "object" ? JSON.stringify(value) : String(value));
  }
  return (await request("v1/search", { method: "POST", body: form, signal })).json();
}

function withQuery(path, values) {
  const given = Object.entries(values).filter(([, value]) => value != null);
  const query = given.map(([name, value]) => `${name}=${encodeURIComponent(value)}`);
  return query.length ? `${path}?${query.join("&")}` : path;
}

async function json(path, options = {}) {
  return (await request(path, { ...options, headers: { Accept: "application/json" } })).json();
}

async function post(path, body, signal) {
  const headers = { Accept: "application/json", "Content-Type": "application/json" };
  return (await request(path, { method: "POST", headers, body: JSON.stringify(body), signal })).json();
}

async function request(path, options, waited = false) {
  const used = key;
  const response = await send(path, options, used);
  if (response.ok) return response;
  if (response.status === 401 && (await newKey(used))) return request(path, options, waited);
  const seconds = Number(response.headers.get("Retry-After"));
  const busy = response.status === 429 || response.status === 503;
  if (busy && !waited && seconds > 0 && seconds <= LONGEST_WAIT_S) {
    hooks.waiting(seconds);
    await pause(seconds * 1000, options.signal);
    return request(path, options, true);
  }
  throw await problemOf(response);
}

async function send(path, options, used) {
  const headers = { ...options.headers, ...(used ? { Authorization: `Bearer ${used}` } : {}) };
  try {
    return await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "The server does not answer. Is it still running, and are you online?");
  }
}

async function problemOf(response) {
  try {
    const problem = await response.json();
    const fields = (problem.errors ?? []).map((error) => `${error.field}: ${error.message}`);
    const text = [problem.detail || problem.title, ...fields].join("\n");
    return new Problem(response.status, text, problem.similar ?? []);
  } catch {
    return new Problem(response.status, `The server answered ${response.status} and did not say why.`);
  }
}

// Requests that fail together ask once, and one that used an older key only has to try the newer one.
async function newKey(used) {
  if (key !== used) return true;
  asking ??= hooks.askForKey(Boolean(used)).finally(() => {
    asking = null;
  });
  const given = await asking;
  if (!given) return false;
  key = given;
  sessionStorage.setItem(KEY, given);
  return true;
}

function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}
