// What the index and its model are, as names and values.

import { create } from "../ui/dom.js";
import { count, megabytes, moment, number, percent, seconds } from "../ui/words.js";

export function indexFacts(index, version) {
  return [
    ["Photos", number(index.count)],
    ["Generation", index.generation ? number(index.generation) : "not built yet"],
    ...(version.projection ? [] : [["Since the last build", `${number(index.unfitted)} new`]]),
    ["Built", index.built_at ? moment(index.built_at) : "–"],
    ["The build took", index.generation ? seconds(index.build_seconds) : "–"],
    ["Vectors", `${number(index.dim)} numbers${index.projected ? "" : ", not projected"}`],
    ...(index.generation && index.projected
      ? [["Variance kept", percent(index.explained_variance)]]
      : []),
    ["Kept as", index.index_type],
    ["Of the 10 nearest, found", percent(index.recall)],
    ["In memory", megabytes(index.bytes)],
  ];
}

export function modelFacts(index, version) {
  const { recipe } = index;
  const weights = version.weights;
  return [
    ...(weights ? [["Weights", weights.name, weights.digest]] : []),
    ["Trunk", `${recipe.backbone} ${recipe.layer}`],
    ["Pooling", recipe.pooling],
    ...trained("Trained filter", version.cooccurrence),
    ...trained("Trained projection", version.projection),
    ["Device", `${version.device ?? "–"}, ${index.precision}`],
    ["Fingerprint", index.fingerprint.slice(0, 12), index.fingerprint],
    ["Program", version.version],
  ];
}

const trained = (name, file) => (file ? [[name, file.name, file.digest]] : []);

/** What to do about the index, in a sentence; empty if nothing. */
export function adviceOf({ count: images, generation, unfitted }, { projection }) {
  if (!images) return "The collection is empty: add photos first, then build.";
  // A trained projection serves from the first photo on; a build fits none.
  if (!unfitted || projection) return "";
  const which = generation
    ? `${count(unfitted, "photo")} ${unfitted === 1 ? "was" : "were"} added after the last build`
    : `${count(unfitted, "photo")} ${unfitted === 1 ? "waits" : "wait"} for a first build`;
  return (
    `${which}. Building fits the projection to the whole collection: smaller, and usually ` +
    "better ranked."
  );
}

/** dl takes div around a name and its value, which keeps the two together in the grid. */
export function fact([name, value, title]) {
  const attributes = title ? { title } : {};
  return create(
    "div",
    { className: "fact" },
    create("dt", { text: name }),
    create("dd", { text: value, attributes }),
  );
}
