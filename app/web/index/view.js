// The index: what it is made of; building, reloading and going back; snapshots and jobs.

import { RELIABILITY, reloadIndex, startBuild } from "../api/index.js";
import { cancelJob, followJob } from "../api/jobs.js";
import { byId, showText } from "../ui/dom.js";
import { announce, clearAlert, showError } from "../ui/messages.js";
import { count, number, sentence } from "../ui/words.js";
import { adviceOf, fact, indexFacts, modelFacts } from "./facts.js";
import { makeGenerations } from "./generations.js";
import { makeJobs } from "./jobs.js";
import { makeSnapshots } from "./snapshots.js";

const PART = "index";

/** Wires the view; `onChanged()` is called when another generation may be live. */
export function makeIndex({ onChanged }) {
  let index = null;
  let busy = false;
  let building = null;

  const jobs = makeJobs();
  const generations = makeGenerations({ operate });
  const snapshots = makeSnapshots({ operate, onJob: jobs.refresh });

  function show(next, version) {
    index = next;
    byId("index-facts").replaceChildren(...indexFacts(index, version).map(fact));
    byId("weights-facts").replaceChildren(...modelFacts(index, version).map(fact));
    showText(byId("weights-said"), version.weights ? sentence(version.weights.notice) : "");
    showText(byId("index-advice"), adviceOf(index, version));
    byId("build-note").hidden = Boolean(version.projection) || index.count >= 50;
    generations.show(index);
    showCalibration(index);
    showButtons();
  }

  function showCalibration({ calibration, generation }) {
    byId("reliability-panel").hidden = !calibration;
    if (!calibration) return;
    byId("reliability-text").textContent =
      `Measured at the build with ${count(calibration.images, "photo")}, ` +
      `${number(calibration.matches)} altered copies and ` +
      `${number(calibration.non_matches)} pairs of different photos: ` +
      `from a score of ${calibration.near.toFixed(3)} on a result is called near.`;
    // Asked for when it is looked at, and again after each build: the address takes no options.
    const picture = byId("reliability");
    picture.loading = "lazy";
    const address = `${RELIABILITY}#${generation}`;
    if (picture.getAttribute("src") !== address) picture.src = address;
  }

  function showButtons() {
    byId("build").disabled = busy || !index?.count;
    byId("reload").disabled = busy || !index?.generation;
    for (const button of document.querySelectorAll(
      "#generation-list button, #snapshot-form button",
    )) {
      button.disabled = busy || !index?.count;
    }
  }

  /** Runs one operation at a time; says what it returns, or why it failed. */
  async function operate(task) {
    if (busy) return;
    busy = true;
    clearAlert(PART);
    showText(byId("index-said"), "");
    showButtons();
    try {
      showText(byId("index-said"), await task());
    } catch (error) {
      showError(PART, error);
    } finally {
      busy = false;
      building = null;
      byId("build-work").hidden = true;
      showButtons();
      jobs.refresh();
      onChanged();
    }
  }

  async function followBuild(accepted) {
    building = accepted.id;
    byId("build-stop").disabled = false;
    showBuild(accepted);
    jobs.refresh();
    const job = await followJob(accepted.id, {
      onProgress: showBuild,
      onTrouble: () =>
        (byId("build-phase").textContent = "The service cannot be reached; trying again…"),
    });
    if (job.state === "succeeded") return built(job.result);
    throw new Error(job.error ?? `The build was ${job.state}; the live index is as before`);
  }

  async function stopBuild({ target }) {
    if (!building) return;
    target.disabled = true;
    try {
      await cancelJob(building);
    } catch (error) {
      target.disabled = false;
      showError(PART, error);
    }
  }

  byId("build").addEventListener("click", () =>
    operate(async () => followBuild(await startBuild())),
  );
  byId("build-stop").addEventListener("click", stopBuild);
  byId("reload").addEventListener("click", () => operate(reload));

  return {
    show,
    /** Takes up a build that was started before this page was opened. */
    resume: (builds) => (builds.length ? operate(() => followBuild(builds[0])) : undefined),
    enter() {
      jobs.watch(true);
      snapshots.refresh();
      onChanged();
    },
    leave: () => jobs.watch(false),
  };
}

async function reload() {
  const loaded = await reloadIndex();
  return `Generation ${number(loaded.generation)} is loaded, with ${count(loaded.count, "photo")}.`;
}

function showBuild({ state, phase, waiting, progress }) {
  const bar = byId("build-progress");
  byId("build-work").hidden = false;
  byId("build-phase").textContent = buildPhase(state, phase, waiting, progress);
  if (progress.total) bar.value = progress.processed / progress.total;
  else bar.removeAttribute("value");
}

function buildPhase(state, phase, waiting, { processed, total }) {
  if (waiting) return `Waiting: ${waiting}`;
  if (state === "queued") return "Waiting for its turn";
  const what = phase ? `Building, ${phase}` : "Building";
  return total ? `${what}: ${number(processed)} of ${number(total)}` : what;
}

function built(result) {
  if (!result) return "The index is built.";
  announce("The index is built");
  return (
    `Generation ${number(result.generation)} is live: ${count(result.count, "photo")}, ` +
    `vectors of ${number(result.dim)} numbers.`
  );
}
