// Adding photos: uploads in batches, each followed until the service has worked through it.

import { cancelJob, followJob, getJobErrors, isAbort, uploadBatch } from "./api.js";
import { asItem, droppedItems, folderItems, makeDropZone } from "./drop.js";
import {
  announce,
  byId,
  clearAlert,
  count,
  create,
  explain,
  megabytes,
  number,
  sentence,
  showAlert,
  showError,
  showText,
} from "./ui.js";

const PART = "add";
const BATCH_FILES = 200;
const BATCH_BYTES = 100e6;
const MAX_LISTED = 1000;
const SETTLE_MS = 3000;
/** Describing a photo takes longer than sending it; so much of the bar is for sending. */
const UPLOAD_SHARE = 0.2;

/** Wires the add part; `onAdded()` is called when the collection may have changed. */
export function makeAdd({ onAdded }) {
  /** The run under way, or null: one at a time, so that its progress means something. */
  let current = null;

  async function addItems(items, leftOut = 0) {
    if (current) {
      return showAlert(PART, "An upload is under way. Wait for it, or stop it first.");
    }
    if (!items.length) {
      return showAlert(PART, "There are no photos or archives in this selection.");
    }
    const batches = inBatches(items);
    await work(newRun(batches.map(bytesOf), leftOut), async (run) => {
      for (const batch of batches) {
        await sendBatch(run, batch);
        run.done += 1;
      }
    });
  }

  /** Takes up jobs that an earlier visit of this page, or another client, started. */
  async function resume(jobs) {
    if (current || !jobs.length) return;
    await work(newRun(jobs.map(() => 1), 0), async (run) => {
      for (const job of jobs) {
        await followAdd(run, job, job.progress.total);
        run.done += 1;
      }
    });
  }

  async function work(run, task) {
    current = run;
    clearAlert(PART);
    showWorking(true);
    try {
      await task(run);
    } catch (error) {
      run.trouble = error;
    } finally {
      current = null;
      showWorking(false);
      showSummary(run);
      onAdded();
      // A stopped job still stores what it had at hand.
      if (run.stopped) setTimeout(onAdded, SETTLE_MS);
    }
  }

  byId("add-stop").addEventListener("click", async ({ target }) => {
    if (!current) return;
    target.disabled = true;
    current.stopped = true;
    // Before a job is known there is only the upload to break off.
    if (!current.job) return current.abort.abort();
    try {
      await cancelJob(current.job);
    } catch (error) {
      target.disabled = false;
      showError(PART, error);
    }
  });
  byId("add-files").addEventListener("change", ({ target }) => {
    const items = [...target.files].map(asItem);
    target.value = "";
    if (items.length) addItems(items);
  });
  byId("add-folder").addEventListener("change", ({ target }) => {
    const { items, leftOut } = folderItems(target.files);
    target.value = "";
    addItems(items, leftOut);
  });
  makeDropZone(byId("add-zone"), async (transfer) => {
    try {
      const { items, leftOut } = await droppedItems(transfer);
      await addItems(items, leftOut);
    } catch {
      showAlert(PART, "The dropped files could not be read. Try the buttons instead.");
    }
  });
  addEventListener("beforeunload", (event) => {
    // What was accepted goes on without the page; what is still to be sent does not.
    if (current?.sending) event.preventDefault();
  });

  return { resume };
}

function newRun(weights, leftOut) {
  return {
    weights,
    leftOut,
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

// --- batches --------------------------------------------------------------------------------

/** Small enough that a cut connection costs little; a larger single file is a batch of its own. */
function inBatches(items) {
  const batches = [];
  let room = 0;
  for (const item of items) {
    const batch = batches.at(-1);
    if (batch && batch.length < BATCH_FILES && item.file.size <= room) {
      batch.push(item);
      room -= item.file.size;
    } else {
      batches.push([item]);
      room = BATCH_BYTES - item.file.size;
    }
  }
  return batches;
}

const bytesOf = (batch) => batch.reduce((sum, { file }) => sum + file.size, 0) || 1;

async function sendBatch(run, batch) {
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
    job = await uploadBatch(batch, { onSent, signal: run.abort.signal });
  } finally {
    run.sending = run.done + 1 < run.weights.length;
  }
  await followAdd(run, job, batch.length);
}

async function followAdd(run, accepted, expected) {
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

// --- progress -------------------------------------------------------------------------------

const batchNote = ({ done, weights }) =>
  weights.length > 1 ? `, batch ${number(done + 1)} of ${number(weights.length)}` : "";

function showJob(run, job, expected) {
  const { processed, total } = job.progress;
  const known = total || expected;
  showPhase(phaseOf(job, known) + batchNote(run));
  showCounts(known ? `${number(processed)} of ${number(known)} · ${tally(run.counts)}` : "");
  showProgress(run, UPLOAD_SHARE + (1 - UPLOAD_SHARE) * (known ? processed / known : 0));
}

function phaseOf(job, known) {
  if (job.state === "queued") return "Waiting for its turn";
  // The last step of a job may fit the projection to a collection that has grown much.
  if (job.progress.total && job.progress.processed === job.progress.total) return "Finishing";
  return known ? `Describing ${count(known, "photo")}` : "Preparing the upload";
}

function showProgress(run, share) {
  const sum = (weights) => weights.reduce((total, weight) => total + weight, 0);
  const before = sum(run.weights.slice(0, run.done));
  const value = (before + run.weights[run.done] * share) / sum(run.weights);
  byId("add-progress").value = Math.min(1, value);
}

/** Written only when it changes: the bar's name is this text. */
function showPhase(text) {
  const phase = byId("add-phase");
  if (phase.textContent !== text) phase.textContent = text;
}

function showCounts(text) {
  byId("add-counts").textContent = text;
}

function tally({ added, replaced, skipped, failed }) {
  const parts = [`${number(added)} added`];
  if (replaced) parts.push(`${number(replaced)} replaced`);
  parts.push(`${number(skipped)} skipped`, `${number(failed)} failed`);
  return parts.join(", ");
}

function showWorking(working) {
  const stop = byId("add-stop");
  const hadFocus = stop === document.activeElement;
  byId("add-work").hidden = !working;
  byId("add").setAttribute("aria-busy", String(working));
  for (const id of ["add-files", "add-folder"]) byId(id).disabled = working;
  stop.disabled = false;
  if (working) {
    byId("add-progress").value = 0;
    byId("add-summary").hidden = true;
    announce("Adding photos");
  } else if (hadFocus) {
    byId("add-files").focus();
  }
}

// --- summary --------------------------------------------------------------------------------

function showSummary(run) {
  const line = `${heading(run)}: ${tally(run.counts)}.`;
  byId("add-summary").hidden = false;
  byId("add-summary").dataset.outcome = outcomeOf(run);
  byId("add-summary-line").textContent = line;
  showText(byId("add-summary-detail"), details(run).join(" "));
  showEntries(run);
  announce(line);
  if (run.trouble && !isAbort(run.trouble)) showError(PART, run.trouble);
}

const isCutShort = (run) => run.stopped || run.trouble !== null || run.failures.length > 0;

function outcomeOf(run) {
  if (isCutShort(run)) return "broken";
  return run.counts.failed ? "partial" : "complete";
}

function heading(run) {
  if (run.stopped) return "Stopped";
  if (run.trouble || run.failures.length) return "Not finished";
  const { added, replaced, skipped, failed } = run.counts;
  if (failed && !added && !replaced && !skipped) return "Nothing could be added";
  return "Finished";
}

/** What happened besides the counts, what was kept, and what to do next; in whole sentences. */
function details(run) {
  const said = run.failures.map(sentence);
  if (run.trouble && !isAbort(run.trouble)) said.push(explain(run.trouble));
  if (run.trouble && run.job) {
    said.push("The upload itself was accepted: the service goes on with it once it is back.");
  }
  if (run.stopped && !run.sending) {
    said.push("The photos that were being described at that moment may be kept as well.");
  }
  if (isCutShort(run)) {
    if (run.counts.added + run.counts.replaced) said.push("Photos counted as added are kept.");
    said.push("To go on, add the same selection again: what is stored already is skipped.");
  }
  if (run.leftOut) {
    said.push(`${count(run.leftOut, "file")} in the folder looked like no photo and stayed out.`);
  }
  return said;
}

function showEntries(run) {
  const box = byId("add-errors");
  box.hidden = !run.entries.length;
  box.open = false;
  if (box.hidden) return;
  const all = run.entries.length + run.unlisted;
  const more = run.unlisted ? `, the first ${number(run.entries.length)} are listed` : "";
  byId("add-errors-title").textContent = `${count(all, "file")} not added, and why${more}`;
  byId("add-error-list").replaceChildren(...run.entries.map(entryItem));
}

function entryItem({ name, outcome, detail }) {
  return create(
    "li",
    { attributes: { "data-outcome": outcome } },
    create("span", { className: "error-name", text: name }),
    create("span", { className: "error-detail", text: `${outcome}: ${detail}` }),
  );
}
