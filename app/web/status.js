// The head of the page: what this service is, and whether it can answer at all.

import { Unreachable, getIndex, getReady, getVersion } from "./api.js";
import { may } from "./session.js";
import { byId, clearAlert, count, number, sentence, showError, showText } from "./ui.js";

/**
 * Asks the service about itself and shows it; `onIndex(index, version)` hears of the index.
 * Never throws: what goes wrong is shown.
 */
export function makeStatus(onIndex) {
  let latest = 0;
  let failed = false;

  async function refresh() {
    const mine = ++latest;
    try {
      const [version, failure] = await Promise.all([getVersion(), readiness()]);
      const index = failure || !may("admin") ? null : await getIndex();
      if (mine !== latest) return;
      failed = Boolean(failure);
      clearAlert("service");
      showAvailability(failure);
      showNotice(version.weights);
      showState(version, index, failure);
      if (index) onIndex(index, version);
    } catch (error) {
      if (mine !== latest) return;
      failed = true;
      byId("state-line").textContent = "The service does not answer";
      showError("service", error);
    }
  }

  /** For parts that just got an answer: what is shown about the service is out of date then. */
  const recover = () => (failed ? refresh() : undefined);

  byId("unavailable-retry").addEventListener("click", refresh);
  return { refresh, recover };
}

/** The problem that keeps the service from answering, or null. Throws Unreachable. */
async function readiness() {
  try {
    await getReady();
    return null;
  } catch (error) {
    if (error instanceof Unreachable) throw error;
    return error;
  }
}

function showAvailability(failure) {
  byId("unavailable").hidden = !failure;
  byId("tools").hidden = Boolean(failure);
  if (failure) byId("unavailable-detail").textContent = sentence(failure.message);
}

function showNotice(weights) {
  const wanting = Boolean(weights && (!weights.trained || weights.fallback));
  showText(byId("weights-notice-text"), wanting ? sentence(weights.notice) : "");
  byId("weights-notice").hidden = !wanting;
}

function showState(version, index, failure) {
  const model = `${version.backbone} with ${version.pooling}`;
  const parts = index
    ? [
        `${count(index.count, "image")} indexed`,
        index.generation ? `generation ${number(index.generation)}` : "not built yet",
        model,
      ]
    : [failure ? "Not available" : model];
  byId("state-line").textContent = parts.join(" \u00b7 ");
}
