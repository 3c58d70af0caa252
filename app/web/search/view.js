// Searching: choosing a query, asking, and what becomes of the answer.

import { isAbort, isPassing } from "../api/http.js";
import { search } from "../api/search.js";
import { amend, goTo } from "../frame/address.js";
import { byId } from "../ui/dom.js";
import { announce, clearAlert, showAlert, showError } from "../ui/messages.js";
import { megabytes, sentence } from "../ui/words.js";
import { makeCamera } from "./camera.js";
import {
  MAX_EXAMPLES,
  fromFile,
  fromId,
  fromUrl,
  hasRoom,
  isShareable,
  isSingle,
  queryOf,
  withExample,
  withoutExample,
} from "./examples.js";
import { makeMinimum } from "./minimum.js";
import { makeOptions } from "./options.js";
import { makeQueryPanel } from "./query_panel.js";
import { makeRegion } from "./region.js";
import { makeResults } from "./results.js";
import { makeStart } from "./start.js";
import { makeUrlQuery } from "./url_query.js";

const PART = "search";
const PAGE = 30;
/** No search goes further. */
const FURTHEST = 10_000;

/** Wires the search part. `photos` is the dialog of single photos. */
export function makeSearch({ photos, onAnswered }) {
  const section = byId("view-search");
  /** @type {import("../api/search.js").Query | null} */
  let query = null;
  /** What the service takes, as it says in `accepts` of `/version`. */
  let accepts = {};
  /** Aborts the search under way: its answer would be about a query that is no longer shown. */
  let running = null;
  /** Whether the last search was not answered for want of a key. */
  let refused = false;
  let stale = true;

  const region = makeRegion({ onChanged: chooseRegion });
  const panel = makeQueryPanel({ onDrop: dropExample, region });
  const options = makeOptions({ onChanged: askAgain });
  const minimum = makeMinimum({
    onMoved: () => results.narrow(),
    onSet: () => query && amend(place(), query),
  });
  const results = makeResults({
    onOpen: openPhoto,
    onSearch: ({ id }) => searchFor(queryOf([fromId(id)])),
    onExample: addExample,
    onMore: loadMore,
    minimum,
  });
  const start = makeStart({ onSearch: (id) => searchFor(queryOf([fromId(id)])) });
  makeCamera({ onPhoto: (file) => searchFiles([file]) });
  const urlQuery = makeUrlQuery({ onUrl: (url) => searchFor(queryOf([fromUrl(url)])) });

  // --- choosing -----------------------------------------------------------------------------

  /** A new search, as a new entry of the browser's history. */
  function searchFor(next) {
    query = next;
    goTo(place(), query);
    showQuery();
    scrollTo({ top: 0 });
    // What was clicked may be gone with the old results, and the focus with it.
    byId("results-title").focus({ preventScroll: true });
    return ask();
  }

  /** Several are one query: what is like all of them. */
  function searchFiles(files) {
    if (files.length > MAX_EXAMPLES) {
      return showAlert(
        PART,
        `These are ${files.length} photos; a search takes ${MAX_EXAMPLES} at most.`,
      );
    }
    const most = accepts.max_upload_mb;
    const large = files.find((file) => most && file.size > most * 2 ** 20);
    if (large) {
      const which = files.length === 1 ? "This file" : large.name;
      return showAlert(
        PART,
        `${which} has ${megabytes(large.size)}; the service takes ${most} MB at most.`,
      );
    }
    return searchFor(queryOf(files.map(fromFile)));
  }

  function chooseRegion(chosen) {
    const [main, ...others] = query.positives;
    query = { ...query, positives: [{ ...main, region: chosen }, ...others] };
    askAgain();
  }

  function addExample(side, { id }) {
    if (!query) return searchFor(queryOf([fromId(id)]));
    if (!hasRoom(query))
      return showAlert(PART, `A search takes ${MAX_EXAMPLES} examples at most. Leave one out first.`);
    const next = withExample(query, side, fromId(id));
    if (!next.positives.length) {
      return showAlert(
        PART,
        "This is the only photo to be like. Add another with “more like this” first.",
      );
    }
    return searchFor(next);
  }

  function dropExample(example) {
    return searchFor(withoutExample(query, example));
  }

  function showQuery() {
    section.dataset.state = query ? "asked" : "start";
    byId("start").hidden = Boolean(query);
    byId("asked").hidden = !query;
    byId("copy-link").hidden = !query || !isShareable(query);
    if (query) return panel.show(query, accepts.originals);
    region.show(null);
    if (stale) refreshStart();
  }

  function refreshStart() {
    stale = false;
    start.refresh();
  }

  function place() {
    if (!query) return { view: "search" };
    const about = isShareable(query)
      ? {
          like: query.positives.filter(({ kind }) => kind === "id").map(({ id }) => id),
          unlike: query.negatives.map(({ id }) => id),
          url: query.positives.find(({ kind }) => kind === "url")?.url ?? "",
          region: isSingle(query) ? query.positives[0].region : null,
        }
      : {};
    return { view: "search", ...about, ...options.place(), minimum: minimum.place() };
  }

  // --- asking -------------------------------------------------------------------------------

  function askAgain() {
    if (!query) return undefined;
    amend(place(), query);
    return ask();
  }

  async function ask() {
    running?.abort();
    const mine = (running = new AbortController());
    refused = false;
    clearAlert(PART);
    options.complain("");
    showBusy(true);
    try {
      const answer = await search(query, { limit: PAGE, ...options.fields() }, mine.signal);
      if (mine.signal.aborted) return;
      results.show(answer, {
        last: answer.results.length < PAGE,
        withFilter: Boolean(options.fields().filter),
      });
      options.suggest(answer.results);
      announce(results.spoken());
      onAnswered();
    } catch (error) {
      if (isAbort(error) || mine.signal.aborted) return;
      fail(error);
    } finally {
      if (running === mine) showBusy(false);
    }
  }

  /** A filter that is wrong is told where it was typed, everything else above. */
  function fail(error) {
    refused = error.status === 401;
    if (error.code === "invalid_filter") {
      options.complain(filterWords(error));
      return refuseFilter();
    }
    byId("timing").textContent = "";
    results.fail("The message above says why.");
    showError(PART, error, isPassing(error) ? ask : null);
  }

  /** What is wrong with it is told below it. */
  function refuseFilter() {
    byId("timing").textContent = "";
    byId("options").open = true;
    results.fail("Change the filter, then apply it.");
  }

  async function loadMore() {
    // A new answer is on its way: what follows the old one does not follow that.
    if (isBusy()) return;
    const asked = query;
    const offset = results.length();
    if (offset + PAGE > FURTHEST) return;
    try {
      const answer = await search(
        query,
        { limit: PAGE, offset, ...options.fields() },
        running?.signal,
      );
      if (asked !== query) return;
      results.append(answer, { last: answer.results.length < PAGE });
      announce(`${results.length()} results`);
    } catch (error) {
      if (!isAbort(error)) showError(PART, error, loadMore);
    }
  }

  const isBusy = () => byId("answer").getAttribute("aria-busy") === "true";

  function showBusy(busy) {
    byId("answer").setAttribute("aria-busy", String(busy));
    if (busy) byId("timing").textContent = "Searching…";
  }

  // --- one photo ----------------------------------------------------------------------------

  function openPhoto(result) {
    photos.open({
      list: results.visible(),
      at: results.visible().indexOf(result),
      comparison: { query, options: options.fields(), main: query.positives[0] },
      onSearch: ({ id }) => searchFor(queryOf([fromId(id)])),
      onExample: addExample,
      onFilter: options.use,
      onRemoved: (id) => results.remove(id),
      onClosed: ({ id }) => results.focus(results.cardOf(id)),
    });
  }

  // --- wiring -------------------------------------------------------------------------------

  byId("query-file").addEventListener("change", ({ target }) => {
    const files = [...target.files];
    target.value = ""; // choosing the same photo again shall search again
    if (files.length) searchFiles(files);
  });
  byId("query-zone").addEventListener("click", ({ target }) => {
    if (!target.closest("label, button")) byId("query-file").click();
  });
  byId("new-search").addEventListener("click", () => {
    goTo({ view: "search" });
    restore({}, null);
    byId("query-file").focus();
  });
  byId("copy-link").addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(location.href);
      announce("The link is copied");
      byId("timing").textContent = "The link is copied.";
    } catch {
      showAlert(PART, "The link could not be copied. It is the address of this page.");
    }
  });
  // On a phone results shall be seen without scrolling.
  byId("options").open = matchMedia("(min-width: 60rem)").matches;

  /** Shows what an address, or an entry of the history, is about. */
  function restore(where, memory) {
    running?.abort();
    clearAlert(PART);
    const isFilter = options.restore({
      filter: where.filter ?? "",
      expand: where.expand ?? false,
    });
    minimum.restore(where.minimum ?? "");
    query = memory ?? queryFrom(where);
    results.clear();
    showQuery();
    if (query && !isFilter) return refuseFilter();
    return query ? ask() : undefined;
  }

  return {
    restore,
    searchFiles,
    searchUrl: (url) => searchFor(queryOf([fromUrl(url)])),
    searchIds: (ids) => searchFor(queryOf(ids.map((id) => fromId(id)))),
    place,
    query: () => query,
    setService(next) {
      const grew = next.originals && !accepts.originals;
      accepts = next;
      urlQuery.allow(Boolean(accepts.urls));
      if (query && grew) panel.show(query, accepts.originals);
    },
    /** The collection has changed: the start shows some of it. */
    changed() {
      stale = true;
      if (!query) refreshStart();
    },
    /** Somebody has signed in: what was refused is asked again. */
    signedIn: () => (query && refused ? ask() : undefined),
    takesUrls: () => Boolean(accepts.urls),
  };
}

function queryFrom({ like = [], unlike = [], url = "", region = null }) {
  if (url) return queryOf([fromUrl(url, region)]);
  if (!like.length) return null;
  const alone = like.length === 1 && !unlike.length;
  return queryOf(
    like.map((id) => fromId(id, alone ? region : null)),
    unlike.map((id) => fromId(id)),
  );
}

/** The place within the filter says more than the sentence alone. */
function filterWords({ message, fields }) {
  const [first] = fields;
  if (!first) return sentence(message);
  const at = first.pointer.replace(/^\/filter/, "");
  return at ? `At ${at}: ${first.detail}.` : sentence(first.detail);
}
