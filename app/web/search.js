// Searching: choosing a query, asking, showing and narrowing the answer.

import { deleteImage, isAbort, searchByFile, searchById } from "./api.js";
import { makeDropZone, pastedImage } from "./drop.js";
import { resultCard } from "./results.js";
import {
  announce,
  byId,
  clearAlert,
  count,
  milliseconds,
  showAlert,
  showError,
  showText,
} from "./ui.js";

const PART = "search";

/** Wires the search part; `onRemoved()` is called after a photo has left the collection. */
export function makeSearch({ onAnswered, onRemoved }) {
  const section = byId("search");
  const list = byId("results");
  const slider = byId("min-score");
  /** What is searched for: {file, preview} or {id, preview}; null before the first search. */
  let query = null;
  let answer = null;
  /** Aborts the search under way: its answer would be about a photo that is no longer shown. */
  let running = null;

  // --- choosing -----------------------------------------------------------------------------

  function searchFile(file) {
    setQuery({ file, preview: URL.createObjectURL(file), name: file.name || "pasted photo" });
    return search();
  }

  async function searchStored(result) {
    setQuery({ id: result.id, preview: result.thumbnail_url, name: result.id });
    bringIntoView();
    // The card that was clicked goes away with the old results, and the focus with it.
    byId("results-title").focus({ preventScroll: true });
    await search();
  }

  function setQuery(next) {
    if (query?.file) URL.revokeObjectURL(query.preview);
    query = next;
    const photo = byId("query-photo");
    photo.hidden = false;
    photo.src = next.preview;
    photo.alt = `Your query: ${next.name}`;
    showText(byId("query-name"), next.name);
    byId("query-call").textContent = "Search with another";
    byId("query-hint").textContent = "drop, paste or click";
  }

  function bringIntoView() {
    const { top } = section.getBoundingClientRect();
    if (top < 0 || top > innerHeight / 2) section.scrollIntoView({ block: "start" });
  }

  // --- asking -------------------------------------------------------------------------------

  async function search() {
    if (!query) return;
    running?.abort();
    const mine = (running = new AbortController());
    clearAlert(PART);
    showBusy(true);
    try {
      const found = await ask(query, mine.signal);
      if (mine.signal.aborted) return;
      answer = found;
      showAnswer();
      announce(spokenSummary());
      onAnswered();
    } catch (error) {
      if (isAbort(error) || mine.signal.aborted) return;
      forgetAnswer();
      showError(PART, error);
    } finally {
      if (running === mine) showBusy(false);
    }
  }

  function ask({ file, id }, signal) {
    const options = { limit: Number(byId("limit").value), query_expansion: byId("expansion").value };
    // A stored photo would find itself first, and it is on show as the query already.
    return file
      ? searchByFile(file, options, signal)
      : searchById(id, { ...options, exclude_self: true }, signal);
  }

  // --- showing ------------------------------------------------------------------------------

  function showBusy(busy) {
    section.dataset.state = busy ? "busy" : answer ? "done" : "failed";
    const panel = byId("answer");
    panel.hidden = !busy && !answer;
    panel.setAttribute("aria-busy", String(busy));
    if (busy) byId("timing").textContent = "Searching…";
  }

  function forgetAnswer() {
    answer = null;
    list.replaceChildren();
    byId("empty").hidden = true;
  }

  function showAnswer() {
    const handlers = { onSearch: searchStored, onRemove: remove };
    list.replaceChildren(...answer.results.map((result) => resultCard(result, handlers)));
    byId("timing").textContent = timingLine(answer);
    applyMinimum();
  }

  /** Hides cards below the slider; its lowest position lets negative scores through as well. */
  function applyMinimum() {
    const minimum = Number(slider.value);
    const label = minimum > 0 ? minimum.toFixed(2) : "any";
    byId("min-score-value").textContent = label;
    slider.setAttribute("aria-valuetext", label);
    if (!answer) return;
    for (const card of list.children) {
      card.hidden = minimum > 0 && Number(card.dataset.score) < minimum;
    }
    showEmpty(minimum);
    byId("results-title").textContent = title();
  }

  const shown = () => [...list.children].filter((card) => !card.hidden).length;

  function title() {
    const visible = shown();
    const all = list.children.length;
    return visible === all ? count(all, "result") : `${visible} of ${count(all, "result")}`;
  }

  function showEmpty(minimum) {
    const words = shown() ? null : emptyWords(minimum);
    byId("empty").hidden = !words;
    if (!words) return;
    byId("empty-title").textContent = words.title;
    byId("empty-hint").textContent = words.hint;
  }

  function emptyWords(minimum) {
    if (list.children.length) {
      const best = Math.max(...[...list.children].map((card) => Number(card.dataset.score)));
      return {
        title: `Nothing scores ${minimum.toFixed(2)} or more.`,
        hint: `The best result has ${best.toFixed(3)}: lower the minimum score to see it.`,
      };
    }
    if (answer.index.count === 0) {
      return {
        title: "The collection is empty.",
        hint: "Add photos below, then search again: there is nothing to find yet.",
      };
    }
    return {
      title: "No other photo was found.",
      hint: "Add more photos below, or search with another one.",
    };
  }

  function spokenSummary() {
    const first = list.querySelector(".card:not([hidden])");
    if (!first) return byId("empty-title").textContent;
    return `${title()}; the best is ${first.dataset.match}: ${first.dataset.id}`;
  }

  // --- removing -----------------------------------------------------------------------------

  async function remove(result, card) {
    if (!(await confirmRemoval(result.id))) return;
    clearAlert(PART);
    try {
      await deleteImage(result.id);
    } catch (error) {
      // Somebody else removed it: that is what was wanted, so the card goes as well.
      if (error.status !== 404) return showError(PART, error);
    }
    forgetCard(result, card);
    announce(`Removed ${result.id}`);
    onRemoved();
  }

  function forgetCard(result, card) {
    const next = card.nextElementSibling ?? card.previousElementSibling;
    const focused = card.contains(document.activeElement);
    card.remove();
    if (answer) {
      answer.results = answer.results.filter(({ id }) => id !== result.id);
      answer.index.count = Math.max(0, answer.index.count - 1);
      applyMinimum();
    }
    if (focused) (next?.querySelector(".card-remove") ?? byId("results-title")).focus();
  }

  // --- wiring -------------------------------------------------------------------------------

  function chooseFirst(files) {
    const [file] = files;
    if (file) searchFile(file);
    else showAlert(PART, "That was no file. Save the photo first, then drop it here.");
  }

  byId("query-file").addEventListener("change", ({ target }) => {
    const files = [...target.files];
    target.value = ""; // choosing the same photo again shall search again
    if (files.length) chooseFirst(files);
  });
  makeDropZone(byId("query-zone"), (transfer) => chooseFirst(transfer.files));
  document.addEventListener("paste", (event) => {
    const image = pastedImage(event.clipboardData);
    if (!image) return;
    event.preventDefault();
    bringIntoView();
    searchFile(image);
  });
  byId("query-photo").addEventListener("error", ({ target }) => (target.hidden = true));
  byId("search-options").addEventListener("submit", (event) => event.preventDefault());
  byId("limit").addEventListener("change", search);
  byId("expansion").addEventListener("change", search);
  slider.addEventListener("input", applyMinimum);
}

/** "decoded 4 ms, described 65 ms, searched 2 ms, 1,234 images" */
function timingLine({ timing_ms: timing, index, query_expansion: expansion }) {
  const steps = { decode: "decoded", describe: "described", search: "searched" };
  const parts = Object.entries(steps)
    .filter(([name]) => timing[name] !== undefined)
    .map(([name, verb]) => `${verb} ${milliseconds(timing[name])}`);
  parts.push(count(index.count, "image"));
  if (expansion.method !== "none") {
    parts.push(
      expansion.neighbours
        ? `expanded with ${count(expansion.neighbours, "neighbour")}`
        : "not expanded: no certain neighbours",
    );
  }
  return parts.join(", ");
}

function confirmRemoval(id) {
  const dialog = byId("confirm");
  byId("confirm-text").textContent = id;
  dialog.returnValue = "cancel";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "ok"), { once: true });
  });
}
