// One addition of photos: what was sent, what became of it, and why some of it was left out.

import { canRead } from "../api/files.js";
import { isPassing } from "../api/http.js";
import { followJob, getJobErrors, sleep, uploadBatch } from "../api/jobs.js";
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
/** How often a batch is sent while the service is busy or restarts, and the first wait between. */
const TRIES = 5;
const FIRST_WAIT_S = 2;
export const UNREADABLE = "this browser cannot read it (any more)";

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

/** Notes a file that is not sent, and why. */
export function leaveOut(run, { name }, detail) {
  run.counts.failed += 1;
  if (run.entries.length < MAX_LISTED) run.entries.push({ name, outcome: "failed", detail });
  else run.unlisted += 1;
}

/** Sends a batch and follows its job to the end. */
export async function sendBatch(run, batch) {
  if (run.stopped) return;
  run.sending = true;
  let sent;
  try {
    sent = await upload(run, batch);
  } finally {
    run.sending = run.done + 1 < run.weights.length;
  }
  if (sent) await followAdd(run, sent.job, sent.files);
}

/** The job of a batch, and of how many files; null if none of them can be read. */
async function upload(run, batch) {
  const { signal } = run.abort;
  let items = batch;
  for (let tries = 1; ; tries += 1) {
    const before = items.length;
    items = await withoutUnreadable(run, items);
    if (!items.length) return null;
    // One that was changed or taken away breaks an upload off: that was no fault of the service.
    if (tries > 1 && items.length === before) {
      await sleep(1000 * FIRST_WAIT_S * 2 ** (tries - 2), signal);
    }
    const bytes = bytesOf(items);
    const onSent = (share) => {
      showPhase(`Uploading ${count(items.length, "file")}${batchNote(run)}`);
      showCounts(`${megabytes(share * bytes)} of ${megabytes(bytes)} sent`);
      showProgress(run, UPLOAD_SHARE * share);
    };
    onSent(0);
    try {
      const job = await uploadBatch(items, { metadata: run.metadata, onSent, signal });
      return { job, files: items.length };
    } catch (error) {
      if (!isPassing(error) || tries === TRIES) throw error;
      showPhase(`${error.status ? "The service is busy" : "The upload broke off"}; trying again…`);
    }
  }
}

async function withoutUnreadable(run, items) {
  const readable = [];
  for (const item of items) {
    if (await canRead(item.file)) readable.push(item);
    else leaveOut(run, item, UNREADABLE);
  }
  return readable;
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
