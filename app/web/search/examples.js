// What is searched with: photos of this browser, of the collection, or from elsewhere.

import { thumbnailPath } from "../api/images.js";

/** @typedef {import("../api/search.js").Example} Example */
/** @typedef {import("../api/search.js").Query} Query */

export const MAX_EXAMPLES = 16;

/** A preview keeps its photo in memory: it goes when no query, and no history, has the file. */
const previews = new FinalizationRegistry((preview) => URL.revokeObjectURL(preview));

/** @returns {Example} */
export function fromFile(file) {
  const preview = URL.createObjectURL(file);
  previews.register(file, preview);
  return { kind: "file", file, name: file.name || "pasted photo", preview, region: null };
}

/** @returns {Example} */
export const fromId = (id, region = null) => ({
  kind: "id",
  id,
  name: id,
  preview: thumbnailPath(id),
  region,
});

/** @returns {Example} */
export const fromUrl = (url, region = null) => ({
  kind: "url",
  url,
  name: url,
  preview: null,
  region,
});

/** @returns {Query} */
export const queryOf = (positives, negatives = []) => ({ positives, negatives });

export const isSingle = ({ positives, negatives }) => positives.length + negatives.length === 1;
export const hasRoom = ({ positives, negatives }) =>
  positives.length + negatives.length < MAX_EXAMPLES;

/** Whether an address can say it: photos of this browser are in no address. */
export const isShareable = ({ positives, negatives }) => {
  const all = [...positives, ...negatives];
  // One URL, or any number of stored photos.
  return all.every(({ kind }) => kind === "id") || (all.length === 1 && all[0].kind === "url");
};

const same = (one, other) => (one.id !== undefined ? one.id === other.id : one === other);

/** `query` with `example` on the side of `positives` or `negatives`, and on that side only. */
export function withExample(query, side, example) {
  const rest = withoutExample(query, example);
  return { ...rest, [side]: [...rest[side], example] };
}

/** @returns {Query} */
export const withoutExample = ({ positives, negatives }, example) => ({
  positives: positives.filter((other) => !same(other, example)),
  negatives: negatives.filter((other) => !same(other, example)),
});
