// What this service is, and whether it can answer at all.

import { Unreachable } from "../api/http.js";
import { getIndex } from "../api/index.js";
import { getReady, getVersion } from "../api/service.js";
import { byId, showText } from "../ui/dom.js";
import { clearAlert, showError } from "../ui/messages.js";
import { count, sentence } from "../ui/words.js";
import { may } from "./session.js";

/**
 * Asks the service about itself and shows it; `onKnown({version, index})` hears of it, where
 * `index` is null for those who may not see it. Never throws: what goes wrong is shown.
 */
export function makeStatus(onKnown) {
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
      showText(byId("state-line"), index ? count(index.count, "photo") : "");
      if (!failure) onKnown({ version, index });
    } catch (error) {
      if (mine !== latest) return;
      failed = true;
      showText(byId("state-line"), "not reachable");
      showError("service", error, refresh);
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
  byId("views").hidden = Boolean(failure);
  if (failure) byId("unavailable-detail").textContent = sentence(failure.message);
}

function showNotice(weights) {
  const wanting = Boolean(weights && (!weights.trained || weights.fallback));
  showText(byId("weights-notice-text"), wanting ? sentence(weights.notice) : "");
  byId("weights-notice").hidden = !wanting;
}
