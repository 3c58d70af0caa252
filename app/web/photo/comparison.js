// A result beside its query, with the parts that made the score.

import { isAbort } from "../api/http.js";
import { search } from "../api/search.js";
import { originalPath, thumbnailPath } from "../api/images.js";
import { isSingle } from "../search/examples.js";
import { byId, showText } from "../ui/dom.js";
import { isKnown, showBadge } from "../ui/matches.js";
import { explain, percent } from "../ui/words.js";
import { drawHeat, placeOf } from "./heat_map.js";

const VERDICTS = {
  exact: "The same file, byte for byte.",
  near: "Most likely the same picture, or another view of the same thing.",
  similar: "Alike, but not certainly the same.",
};

/** Wires the two pictures, the verdict and the heat map of the dialog. */
export function makeComparison() {
  const why = byId("why-switch");
  let current = null;
  let running = null;

  /** `comparison` is {query, main, options} of a search, or null for a photo by itself. */
  function show(photo, comparison, keepsOriginals) {
    running?.abort();
    current = { photo, comparison };
    hideHeat();
    const compared = Boolean(comparison);
    byId("side-query").hidden = !compared;
    byId("verdict").hidden = !compared;
    byId("pair").classList.toggle("pair-single", !compared);
    showText(byId("pair-caption"), compared ? "Found" : "");
    fit(byId("pair-photo"), photo.width / photo.height);
    if (!compared) return;
    showQuery(comparison.main, keepsOriginals);
    showVerdict(photo);
    byId("why").hidden = !isSingle(comparison.query);
    if (why.checked && !byId("why").hidden) showWhy();
  }

  function showQuery({ kind, id, preview }, keepsOriginals) {
    const picture = byId("pair-query");
    const source =
      kind === "id" ? (keepsOriginals ? originalPath(id) : thumbnailPath(id)) : preview;
    picture.onload = () => fit(picture, picture.naturalWidth / picture.naturalHeight);
    picture.onerror = () => {
      picture.onerror = () => (byId("side-query").hidden = true);
      if (kind === "id") picture.src = thumbnailPath(id);
      else byId("side-query").hidden = true;
    };
    if (source) picture.src = source;
    else byId("side-query").hidden = true;
  }

  function showVerdict(photo) {
    showBadge(byId("verdict-badge"), photo.match_type);
    const p = photo.p_same_origin;
    const sure = isKnown(p) ? ` Probability of the same origin ${percent(p)}.` : "";
    byId("verdict-text").textContent =
      `${VERDICTS[photo.match_type] ?? ""}${sure} Score ${photo.score.toFixed(3)}.`;
  }

  // --- the heat map -------------------------------------------------------------------------

  function hideHeat() {
    byId("heat-query").hidden = byId("heat-photo").hidden = true;
    byId("why-said").textContent = "";
  }

  async function showWhy() {
    hideHeat();
    if (!why.checked) return;
    const { photo, comparison } = current;
    running?.abort();
    const mine = (running = new AbortController());
    byId("why-said").textContent = "Looking for it…";
    try {
      const found = await explanationOf(photo, comparison, mine.signal);
      if (mine.signal.aborted) return;
      showHeat(found, comparison.main.region);
    } catch (error) {
      if (!isAbort(error)) byId("why-said").textContent = explain(error);
    }
  }

  function showHeat({ query, result, result_from: origin }, region) {
    drawHeat(byId("heat-query"), query);
    drawHeat(byId("heat-photo"), result);
    place(byId("heat-query"), region ?? { x: 0, y: 0, width: 1, height: 1 });
    byId("heat-query").hidden = byId("heat-photo").hidden = false;
    const from = origin === "thumbnail" ? " Made from its thumbnail, so it is coarse." : "";
    byId("why-said").textContent =
      `Bright parts made the score: of your query ${partWords(query)}, ` +
      `of this photo ${partWords(result)}.${from}`;
  }

  why.addEventListener("change", showWhy);
  return { show, leave: () => running?.abort() };
}

/** One result is asked for again, with its explanation. Throws if it is no longer at its rank. */
async function explanationOf(photo, { query, options }, signal) {
  const asked = { ...options, limit: 1, offset: photo.rank - 1, include: ["explain"] };
  const { results } = await search(query, asked, signal);
  const [found] = results;
  if (found?.id !== photo.id) {
    throw new Error(
      "The collection has changed since this search. Search again to see what made the score.",
    );
  }
  if (!found.explain)
    throw new Error("Too little is kept of this photo to say what made the score.");
  return found.explain;
}

function partWords(grid) {
  const place = placeOf(grid);
  return place === "whole" ? "all of it" : `the ${place}`;
}

function place(canvas, { x, y, width, height }) {
  for (const [name, value] of Object.entries({ left: x, top: y, width, height })) {
    canvas.style.setProperty(name, `${100 * value}%`);
  }
}

/** The frame around a picture takes its shape, so that what lies upon it fits. */
export function fit(picture, ratio) {
  picture.parentElement.style.setProperty("--ratio", String(ratio || 1));
}
