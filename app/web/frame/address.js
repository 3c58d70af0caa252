// What is shown, as the address of the page: it can be shared, bookmarked and gone back to.

const VIEWS = ["search", "collection", "add", "index"];
const REMEMBERED = 20;

/**
 * What a search is about, without photos that only this browser has.
 * @typedef {object} Place
 * @property {string} view
 * @property {string[]} like ids of stored photos
 * @property {string[]} unlike
 * @property {string} url of a photo elsewhere
 * @property {import("../api/search.js").Region | null} region
 * @property {string} filter JSON text
 * @property {boolean} expand
 * @property {string} minimum such as `p0.90` (a probability) or `0.5` (a score)
 */

/** @returns {Place} */
export function readAddress(search = location.search) {
  const given = new URLSearchParams(search);
  const view = given.get("view");
  return {
    view: VIEWS.includes(view) ? view : "search",
    like: given.getAll("like"),
    unlike: given.getAll("unlike"),
    url: given.get("url") ?? "",
    region: regionOf(given.get("region")),
    filter: given.get("filter") ?? "",
    expand: given.get("expand") === "1",
    minimum: given.get("min") ?? "",
  };
}

/** @param {Partial<Place>} place */
export function addressOf(place) {
  const values = new URLSearchParams();
  if (place.view && place.view !== "search") values.set("view", place.view);
  for (const id of place.like ?? []) values.append("like", id);
  for (const id of place.unlike ?? []) values.append("unlike", id);
  if (place.url) values.set("url", place.url);
  if (place.region) values.set("region", regionText(place.region));
  if (place.filter) values.set("filter", place.filter);
  if (place.expand) values.set("expand", "1");
  if (place.minimum) values.set("min", place.minimum);
  const text = values.toString();
  return location.pathname + (text ? `?${text}` : "");
}

function regionOf(text) {
  const numbers = (text ?? "").split(",").map(Number);
  if (numbers.length !== 4 || !numbers.every((value) => value >= 0 && value <= 1)) return null;
  const [x, y, width, height] = numbers;
  return width && height ? { x, y, width, height } : null;
}

const regionText = ({ x, y, width, height }) =>
  [x, y, width, height].map((value) => String(Number(value.toFixed(4)))).join(",");

// --- going there and back -------------------------------------------------------------------

/** Queries of this visit by number: files among them are in no address. */
const remembered = new Map();
/** Entries of an earlier load of the page have numbers too, which mean nothing now. */
const visit = performance.timeOrigin;
let last = 0;

/** Enters `place` into the history, with what the address cannot say. */
export function goTo(place, memory = null) {
  last += 1;
  history.pushState(remember(last, memory), "", addressOf(place));
}

/** Changes the entry of the history that is shown, without a new one. */
export function amend(place, memory = null) {
  const { state } = history;
  const number = state?.visit === visit ? state.number : (last += 1);
  history.replaceState(remember(number, memory), "", addressOf(place));
}

function remember(number, memory) {
  remembered.set(number, memory);
  const [oldest] = remembered.keys();
  if (remembered.size > REMEMBERED) remembered.delete(oldest);
  return { visit, number };
}

/** Calls `onReturn(place, memory)` when the visitor goes back or forward. */
export function followHistory(onReturn) {
  addEventListener("popstate", ({ state }) => {
    const memory = state?.visit === visit ? remembered.get(state.number) : null;
    onReturn(readAddress(), memory ?? null);
  });
}
