// How far an addition is, as it is shown.

import { byId } from "../ui/dom.js";
import { count, number } from "../ui/words.js";

/** Describing a photo takes longer than sending it; so much of the bar is for sending. */
export const UPLOAD_SHARE = 0.2;

export function showJob(run, job, expected) {
  const { processed, total } = job.progress;
  const known = total || expected;
  showPhase(phaseOf(job, known) + batchNote(run));
  showCounts(known ? `${number(processed)} of ${number(known)} · ${tally(run.counts)}` : "");
  showProgress(run, UPLOAD_SHARE + (1 - UPLOAD_SHARE) * (known ? processed / known : 0));
}

export const batchNote = ({ done, weights }) =>
  weights.length > 1 ? `, batch ${number(done + 1)} of ${number(weights.length)}` : "";

function phaseOf(job, known) {
  if (job.waiting) return `Waiting: ${job.waiting}`;
  if (job.state === "queued") return "Waiting for its turn";
  // The last step of a job may fit the projection to a collection that has grown much.
  if (job.progress.total && job.progress.processed === job.progress.total) return "Finishing";
  return known ? `Describing ${count(known, "photo")}` : "Preparing the upload";
}

export function showProgress(run, share) {
  const sum = (weights) => weights.reduce((total, weight) => total + weight, 0);
  const before = sum(run.weights.slice(0, run.done));
  const value = (before + run.weights[run.done] * share) / sum(run.weights);
  byId("add-progress").value = Math.min(1, value);
}

/** Written only when it changes: the bar's name is this text. */
export function showPhase(text) {
  const phase = byId("add-phase");
  if (phase.textContent !== text) phase.textContent = text;
}

export function showCounts(text) {
  byId("add-counts").textContent = text;
}

export function tally({ added, replaced, skipped, failed }) {
  const parts = [`${number(added)} added`];
  if (replaced) parts.push(`${number(replaced)} replaced`);
  parts.push(`${number(skipped)} skipped`, `${number(failed)} failed`);
  return parts.join(", ");
}
