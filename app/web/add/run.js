// One addition of photos: what was sent, what became of it, and why some of it was left out.

import { followJob, getJobErrors, uploadBatch } from "../api/jobs.js";
import { count, megabytes } from "../ui/words.js";
import { bytesOf } from "./batches.js";
import {
  UPLOAD_SHARE,
  batchNote,
  showCounts,
  showJob,
  showPhase,
  showProgress,
} from "./progress.js";

const MAX_LISTED = 1000;

/**
 * `weights` are those of its parts in the progress bar; `leftOut` counts files that looked like no
 * photo.
 */
export function newRun(weights, { leftOut = 0, metadata = null } = {}) {
  return {
    weights,
    leftOut,
    metadata,
    done: 0,
    sending: false,
    job: null,
    stopped: false,
    trouble: null,
    abort: new AbortController(),
    counts: { added: 0, replaced: 0, skipped: 0, failed: 0 },
    failures: [],
    entries: [],
    unlisted: 0,
  };
}

/** Sends a batch and follows its job to the end. */
export async function sendBatch(run, batch) {
  if (run.stopped) return;
  const bytes = bytesOf(batch);
  const onSent = (share) => {
    showPhase(`Uploading ${count(batch.length, "file")}${batchNote(run)}`);
    showCounts(`${megabytes(share * bytes)} of ${megabytes(bytes)} sent`);
    showProgress(run, UPLOAD_SHARE * share);
  };
  run.sending = true;
  onSent(0);
  let job;
  try {
    job = await uploadBatch(batch, { metadata: run.metadata, onSent, signal: run.abort.signal });
  } finally {
    run.sending = run.done + 1 < run.weights.length;
  }
  await followAdd(run, job, batch.length);
}

/** Follows the job `accepted`, of `expected` photos or 0 if that is not known, to its end. */
export async function followAdd(run, accepted, expected) {
  run.job = accepted.id;
  const before = { ...run.counts };
  const take = (job) => {
    for (const name of Object.keys(before)) run.counts[name] = before[name] + job.progress[name];
    showJob(run, job, expected);
  };
  take(accepted);
  const job = await followJob(accepted.id, {
    onProgress: take,
    onTrouble: () => showPhase("The service cannot be reached; trying again…"),
    signal: run.abort.signal,
  });
  run.job = null;
  // A job in which no image could be added is told by its counts and its list already.
  if (job.error && !job.progress.failed) run.failures.push(job.error);
  if (job.state === "cancelled") run.stopped = true;
  await listErrors(run, accepted.id);
}

async function listErrors(run, jobId) {
  const room = Math.max(1, MAX_LISTED - run.entries.length);
  const { errors, total } = await getJobErrors(jobId, room);
  const listed = errors.slice(0, MAX_LISTED - run.entries.length);
  run.entries.push(...listed);
  run.unlisted += total - listed.length;
}
