// The answer: a grid of photos, its heading, what is said when it is empty, and the next page.

import { byId, create } from "../ui/dom.js";
import { makeGrid } from "../ui/grid.js";
import { badge, isKnown, matchWords } from "../ui/matches.js";
import { makeMore } from "../ui/more.js";
import { fileName, photoCard, tool } from "../ui/photo_card.js";
import { count, milliseconds, number, percent } from "../ui/words.js";

/**
 * @param {object} wiring
 * @param {(result: object) => void} wiring.onOpen
 * @param {(result: object) => void} wiring.onSearch
 * @param {(side: "positives" | "negatives", result: object) => void} wiring.onExample
 * @param {() => Promise<void>} wiring.onMore asked for the next page
 * @param {object} wiring.minimum the slider
 */
export function makeResults({ onOpen, onSearch, onExample, onMore, minimum }) {
  const list = byId("results");
  const grid = makeGrid(list);
  const more = makeMore(byId("results-more"), onMore);
  let results = [];
  let index = null;
  let filtered = false;
  let isLast = true;

  function show(answer, { last, withFilter }) {
    results = [];
    list.replaceChildren();
    index = answer.index;
    filtered = withFilter;
    byId("timing").textContent = timingLine(answer);
    append(answer, { last });
  }

  function append(answer, { last }) {
    // A photo that was added meanwhile moves others to the next page.
    const known = new Set(results.map(({ id }) => id));
    const fresh = answer.results.filter(({ id }) => !known.has(id));
    results = [...results, ...fresh];
    isLast = last;
    list.append(...fresh.map(card));
    minimum.offer(results);
    narrow();
  }

  function card(result) {
    const probable = isKnown(result.p_same_origin);
    const item = photoCard({
      ...result,
      label: `${result.id}: ${matchWords(result)}`,
      caption: [
        create(
          "p",
          { className: "card-line", attributes: { "aria-hidden": "true" } },
          badge(result.match_type),
          create("span", {
            className: "card-measure",
            text: probable ? percent(result.p_same_origin) : result.score.toFixed(3),
            title: probable ? "Probability of the same origin" : "Score: cosine of the descriptors",
          }),
        ),
        create(
          "p",
          { className: "card-line card-small", attributes: { "aria-hidden": "true" } },
          create("span", { className: "card-id", text: fileName(result.id), title: result.id }),
          ...(probable
            ? [
                create("span", {
                  text: result.score.toFixed(3),
                  title: "Score: cosine of the descriptors",
                }),
              ]
            : []),
        ),
      ],
      tools: [
        tool("search", `Search with ${result.id}`, () => onSearch(result)),
        tool("more", `More like ${result.id}`, () => onExample("positives", result)),
        tool("less", `Less like ${result.id}`, () => onExample("negatives", result)),
      ],
      onOpen: () => onOpen(result),
    });
    item.dataset.score = String(result.score);
    item.dataset.match = result.match_type;
    return item;
  }

  // --- narrowing ----------------------------------------------------------------------------

  const passing = () => results.filter(minimum.passes);

  /** Hides what is below the slider. */
  function narrow() {
    const passes = new Set(passing().map(({ id }) => id));
    for (const item of list.children) item.hidden = !passes.has(item.dataset.id);
    byId("results-title").textContent = title();
    showEmpty();
    grid.refresh();
    // Best first: after the first that is below the slider all others are.
    more.show(!isLast && passes.size === results.length);
  }

  function title() {
    const visible = passing().length;
    const all = `${number(results.length)}${isLast ? "" : "+"}`;
    if (visible === results.length) return isLast ? count(visible, "result") : `${all} results`;
    return `${number(visible)} of ${all} results`;
  }

  // --- nothing to show ----------------------------------------------------------------------

  function showEmpty() {
    const words = passing().length ? null : emptyWords();
    byId("empty").hidden = !words;
    if (!words) return;
    [byId("empty-title").textContent, byId("empty-hint").textContent] = words;
  }

  function emptyWords() {
    if (results.length) {
      return [
        `Nothing reaches ${minimum.words()}.`,
        `The best result has ${minimum.best(results)}: move the slider to the left to see it.`,
      ];
    }
    if (!index?.count)
      return ["The collection is empty.", "Add photos first: there is nothing to find yet."];
    if (filtered) {
      return [
        "No photo passes the filter.",
        "Change or clear it: names and types have to be as they were stored.",
      ];
    }
    return ["No other photo was found.", "Add more photos, or search with another one."];
  }

  function clear() {
    results = [];
    list.replaceChildren();
    byId("results-title").textContent = "Results";
    byId("empty").hidden = true;
    more.show(false);
  }

  // --- changes ------------------------------------------------------------------------------

  function remove(id) {
    const card = [...list.children].find((item) => item.dataset.id === id);
    card?.remove();
    const at = results.findIndex((result) => result.id === id);
    if (at < 0) return;
    results.splice(at, 1);
    // By its rank a result is asked for again, to be explained.
    for (const later of results.slice(at)) later.rank -= 1;
    if (index) index.count = Math.max(0, index.count - 1);
    narrow();
  }

  return {
    show,
    append,
    narrow,
    remove,
    focus: grid.focus,
    clear,
    /** In the place of an answer. */
    fail(hint) {
      clear();
      byId("results-title").textContent = "No answer";
      byId("empty-title").textContent = "The search could not be made";
      byId("empty-hint").textContent = hint;
      byId("empty").hidden = false;
    },
    /** Those that can be seen, best first. */
    visible: passing,
    length: () => results.length,
    cardOf: (id) => [...list.children].find((item) => item.dataset.id === id),
    spoken() {
      const [first] = passing();
      return first
        ? `${title()}; the best is ${first.id}, ${matchWords(first)}`
        : byId("empty-title").textContent;
    },
  };
}

/** "74 ms among 1,234 photos, expanded with 3 neighbours" */
function timingLine({ timing_ms: timing, index, query_expansion: expansion }) {
  const total = Object.values(timing).reduce((sum, value) => sum + value, 0);
  const parts = [`${milliseconds(total)} among ${count(index.count, "photo")}`];
  if (expansion.method !== "none") {
    parts.push(
      expansion.neighbours
        ? `expanded with ${count(expansion.neighbours, "neighbour")}`
        : "not expanded: too few certain neighbours",
    );
  }
  return parts.join(", ");
}
