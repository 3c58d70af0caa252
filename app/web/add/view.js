// Adding photos: uploads in batches, each followed until the service has worked through it.

import { addUrls, cancelJob } from "../api/jobs.js";
import { asItem, droppedItems, folderItems } from "../ui/drop.js";
import { byId } from "../ui/dom.js";
import { makeJsonField } from "../ui/json_field.js";
import { announce, clearAlert, showAlert, showError } from "../ui/messages.js";
import { megabytes } from "../ui/words.js";
import { webAddress } from "../search/url_query.js";
import { bytesOf, inBatches } from "./batches.js";
import { followAdd, leaveOut, newRun, sendBatch, UNREADABLE } from "./run.js";
import { showSummary } from "./summary.js";

const PART = "add";
const SETTLE_MS = 3000;

/** Wires the add part; `onAdded()` is called when the collection may have changed. */
export function makeAdd({ onAdded }) {
  /** The run under way, or null: one at a time, so that its progress means something. */
  let current = null;
  /** Bytes of one upload, as far as the service says. */
  let mostBytes = Infinity;
  const metadata = makeJsonField(byId("add-metadata"), byId("add-metadata-problem"));

  const isBusy = () => {
    if (current) showAlert(PART, "An upload is under way. Wait for it, or stop it first.");
    return Boolean(current);
  };

  /** The metadata for all of a run; undefined if there is something wrong with it. */
  function readMetadata() {
    const value = metadata.read();
    if (value === undefined) {
      byId("add-metadata").closest("details").open = true;
      byId("add-metadata").focus();
    }
    return value;
  }

  async function addItems(items, leftOut = 0, unreadable = []) {
    if (isBusy()) return;
    if (!items.length && !unreadable.length) {
      return showAlert(PART, "There are no photos or archives in this selection.");
    }
    const given = readMetadata();
    if (given === undefined) return;
    const batches = inBatches(
      items.filter(({ file }) => file.size <= mostBytes),
      mostBytes,
    );
    await work(newRun(batches.map(bytesOf), { leftOut, metadata: given }), async (run) => {
      for (const item of unreadable) leaveOut(run, item, UNREADABLE);
      for (const item of items.filter(({ file }) => file.size > mostBytes)) {
        leaveOut(run, item, tooLarge(item.file.size, mostBytes));
      }
      for (const batch of batches) {
        await sendBatch(run, batch);
        run.done += 1;
      }
    });
  }

  async function addFromUrls(text) {
    if (isBusy()) return;
    const lines = text
      .split("\n")
      .map((line) => line.trim())
      .filter(Boolean);
    const wrong = lines.find((line) => !webAddress(line));
    if (wrong)
      return showAlert(PART, `“${wrong}” is no URL: it has to begin with http:// or https://.`);
    const given = readMetadata();
    if (given === undefined || !lines.length) return;
    await work(newRun([1]), async (run) => {
      await followAdd(run, await addUrls(lines, given ?? {}), lines.length);
      run.done += 1;
    });
  }

  /** Takes up jobs that an earlier visit of this page, or another client, started. */
  async function resume(jobs) {
    if (current || !jobs.length) return;
    await work(newRun(jobs.map(() => 1)), async (run) => {
      for (const job of jobs) {
        if (run.stopped) await cancelJob(job.id).catch(() => {});
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
      showSummary(PART, run);
      onAdded();
      // A stopped job still stores what it had at hand.
      if (run.stopped) setTimeout(onAdded, SETTLE_MS);
    }
  }

  async function stop({ target }) {
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
  }

  byId("add-stop").addEventListener("click", stop);
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
  byId("add-urls-form").addEventListener("submit", (event) => {
    event.preventDefault();
    addFromUrls(byId("add-urls").value);
  });
  addEventListener("beforeunload", (event) => {
    // What was accepted goes on without the page; what is still to be sent does not.
    if (current?.sending) event.preventDefault();
  });

  return {
    resume,
    async takeDrop(transfer) {
      try {
        const { items, leftOut, unreadable } = await droppedItems(transfer);
        await addItems(items, leftOut, unreadable);
      } catch {
        showAlert(PART, "The dropped files could not be read. Try the buttons instead.");
      }
    },
    setService({ urls, max_bulk_mb: most }) {
      byId("add-urls-box").hidden = !urls;
      mostBytes = most ? most * 2 ** 20 : Infinity;
    },
  };
}

const tooLarge = (bytes, most) =>
  `the file has ${megabytes(bytes)}; the service takes ${megabytes(most)} at once`;

function showWorking(working) {
  const stop = byId("add-stop");
  const hadFocus = stop === document.activeElement;
  byId("add-work").hidden = !working;
  byId("view-add").setAttribute("aria-busy", String(working));
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
