// What a match is called.

import { create } from "./dom.js";
import { percent } from "./words.js";

const TITLES = {
  exact: "The same file, byte for byte",
  near: "Most likely a copy of the picture: recompressed, resized, cropped or recoloured",
  similar: "Alike; not certainly the same",
};

export const badge = (type) =>
  create("span", { className: `badge badge-${type}`, text: type, title: TITLES[type] ?? "" });

export function showBadge(element, type) {
  element.className = `badge badge-${type}`;
  element.textContent = type;
  element.title = TITLES[type] ?? "";
}

export const isKnown = (probability) => probability !== null && probability !== undefined;

/** "near, 99.8 % probably of the same origin, score 0.952" */
export function matchWords({ match_type: type, p_same_origin: p, score }) {
  const probably = isKnown(p) ? `${percent(p)} probably of the same origin, ` : "";
  return `${type}, ${probably}score ${score.toFixed(3)}`;
}
