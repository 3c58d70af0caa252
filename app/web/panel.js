// The index panel: what the index is made of, building and reloading it.

import { followJob, reloadIndex, startBuild } from "./api.js";
import {
  announce,
  byId,
  clearAlert,
  count,
  create,
  megabytes,
  moment,
  number,
  sentence,
  showAlert,
  showError,
  showText,
} from "./ui.js";

const PART = "index";

/** Wires the panel; `onChanged()` is called when another generation may be live. */
export function makePanel({ onChanged }) {
  let index = null;
  let busy = false;

  function show(next, version) {
    index = next;
    byId("facts").replaceChildren(...factsOf(index, version).map(fact));
    byId("panel-brief").textContent = brief(index);
    showText(byId("panel-advice"), advice(index, version));
    byId("panel-note").hidden = Boolean(version.projection);
    showButtons();
  }

  function showButtons() {
    byId("build").disabled = busy || !index?.count;
    byId("reload").disabled = busy || !index?.generation;
  }

  /** Runs one operation at a time; whatever goes wrong is shown. */
  async function operate(task) {
    if (busy) return;
    busy = true;
    clearAlert(PART);
    showText(byId("build-summary"), "");
    showButtons();
    try {
      finish(await task());
    } catch (error) {
      showError(PART, error);
    } finally {
      busy = false;
      byId("build-work").hidden = true;
      showButtons();
      onChanged();
    }
  }

  function finish(text) {
    showText(byId("build-summary"), text);
    if (text) announce(text);
  }

  const build = () => operate(async () => followBuild(await startBuild()));

  const reload = () =>
    operate(async () => {
      const loaded = await reloadIndex();
      return `Generation ${number(loaded.generation)} is loaded, with ${count(loaded.count, "photo")}.`;
    });

  /** Takes up a build that was started before this page was opened. */
  const resume = (jobs) => (jobs.length ? operate(() => followBuild(jobs[0])) : undefined);

  byId("build").addEventListener("click", build);
  byId("reload").addEventListener("click", reload);
  return { show, resume };
}

/** Follows a build to its end; returns what came of it, or "" after showing why nothing did. */
async function followBuild(accepted) {
  showBuild(accepted);
  const job = await followJob(accepted.id, {
    onProgress: showBuild,
    onTrouble: () => (byId("build-phase").textContent = "The service cannot be reached; trying again…"),
  });
  if (job.state === "succeeded") return built(job.result);
  showAlert(PART, sentence(job.error ?? `The build was ${job.state}; the live index is as before`));
  return "";
}

function showBuild({ state, progress }) {
  const bar = byId("build-progress");
  byId("build-work").hidden = false;
  byId("build-phase").textContent = buildPhase(state, progress);
  if (progress.total) bar.value = progress.processed / progress.total;
  else bar.removeAttribute("value");
}

function buildPhase(state, { processed, total }) {
  if (state === "queued") return "Waiting for its turn";
  return total ? `Building: ${number(processed)} of ${number(total)}` : "Building";
}

function built(result) {
  if (!result) return "The index is built.";
  return (
    `Generation ${number(result.generation)} is live: ${count(result.count, "photo")}, ` +
    `vectors of length ${number(result.dim)}.`
  );
}

// --- what the panel says --------------------------------------------------------------------

function brief({ count: images, generation, unfitted }) {
  const photos = count(images, "photo");
  if (!generation) return `${photos}, not built yet`;
  return unfitted ? `${photos}, ${number(unfitted)} since the last build` : photos;
}

function advice({ count: images, generation, unfitted }, { projection }) {
  if (!images) return "The collection is empty: add photos first, then build.";
  // A trained projection serves from the first photo on; a build fits none.
  if (!unfitted || projection) return "";
  const which = generation
    ? `${count(unfitted, "photo")} ${unfitted === 1 ? "was" : "were"} added after the last build`
    : `${count(unfitted, "photo")} ${unfitted === 1 ? "waits" : "wait"} for a first build`;
  return `${which}; building fits the projection to the whole collection: smaller and usually better ranked.`;
}

function factsOf(index, version) {
  const recipe = index.recipe;
  return [
    ["Photos", number(index.count)],
    ["Fitted", version.projection ? "–" : `${number(index.fitted)} fitted, ${number(index.unfitted)} not`],
    ["Generation", index.generation ? number(index.generation) : "not built yet"],
    ["Vector length", `${number(index.dim)}${index.projected ? "" : " (not projected)"}`],
    ["Explained variance", index.generation && index.projected ? percent(index.explained_variance) : "–"],
    ["Size in memory", megabytes(index.bytes)],
    ["Built", index.built_at ? moment(index.built_at) : "–"],
    ["Model", `${recipe.backbone} ${recipe.layer}, ${recipe.pooling}`],
    ...trained("Trained projection", version.projection),
    ...trained("Trained filter", version.cooccurrence),
    ["Precision", index.precision],
    ["Device", version.device ?? "–"],
    ["Fingerprint", `${index.fingerprint.slice(0, 12)}…`, index.fingerprint],
  ];
}

const trained = (name, file) => (file ? [[name, file.name, file.digest]] : []);

const percent = (share) => `${(100 * share).toFixed(1)} %`;

/** dl takes div around a name and its value, which keeps the two together in the grid. */
function fact([name, value, title]) {
  const attributes = title ? { title } : {};
  return create(
    "div",
    { className: "fact" },
    create("dt", { text: name }),
    create("dd", { text: value, attributes }),
  );
}
