// Long work of the service, live: what runs, what ran, why something failed, and stopping it.

import { cancelJob, getJobErrors, getJobs, isUnfinished } from "../api/jobs.js";
import { errorItem } from "../add/summary.js";
import { button, byId, create } from "../ui/dom.js";
import { clearAlert, showError } from "../ui/messages.js";
import { moment, number, seconds, sentence } from "../ui/words.js";

const PART = "jobs";
/** Its own: what became of a click is not taken away by the next look. */
const LIST = "job-list";
const BUSY_MS = 1000;
const IDLE_MS = 8000;
const LISTED = 12;
const NAMES = {
  add: "Adding photos",
  build: "Build",
  duplicates: "Search for duplicates",
  snapshot: "Snapshot",
};

/** `watch(whether)` keeps the list up to date while it is in view. */
export function makeJobs() {
  let watching = false;
  let timer = 0;
  let failing = false;
  /** Rows by id, with the state they show: one that is read or opened is not replaced. */
  const rows = new Map();

  async function refresh() {
    clearTimeout(timer);
    let jobs = [];
    try {
      jobs = await getJobs(LISTED);
      show(jobs);
      failing = false;
      clearAlert(LIST);
    } catch (error) {
      // Said once, not at each look.
      if (watching && !failing) showError(LIST, error);
      failing = true;
    }
    if (watching) timer = setTimeout(refresh, jobs.some(isUnfinished) ? BUSY_MS : IDLE_MS);
  }

  function show(jobs) {
    const list = byId("job-list");
    const kept = jobs.map((job) => {
      const state = JSON.stringify(job);
      const old = rows.get(job.id);
      if (old?.state === state) return old.row;
      const row = rowOf(job);
      rows.set(job.id, { state, row });
      if (old) replace(old.row, row);
      return row;
    });
    for (const id of [...rows.keys()]) if (!jobs.some((job) => job.id === id)) rows.delete(id);
    if (!kept.length) kept.push(create("li", { className: "hint", text: "None yet." }));
    // Rows that stay are not touched: taken out and put back they would lose focus and scrolling.
    for (const row of [...list.children]) if (!kept.includes(row)) row.remove();
    kept.forEach((row, at) => {
      if (list.children[at] !== row) list.insertBefore(row, list.children[at] ?? null);
    });
  }

  function rowOf(job) {
    const row = create(
      "li",
      { className: "row", attributes: { "data-job": job.id, "data-state": job.state } },
      create(
        "span",
        { className: "row-name" },
        create("span", { text: NAMES[job.type] ?? job.type }),
        create("span", { className: "row-detail", text: detailOf(job) }),
      ),
      create("span", { className: `badge job-${job.state}`, text: job.state }),
    );
    if (isUnfinished(job)) row.append(...underWay(job, stop));
    if (job.progress.failed + job.progress.skipped) row.append(errorsOf(job));
    return row;
  }

  async function stop(job) {
    try {
      await cancelJob(job.id);
    } catch (error) {
      showError(PART, error);
    }
    refresh();
  }

  return {
    refresh,
    watch(whether) {
      watching = whether;
      failing = false;
      clearAlert(LIST);
      clearTimeout(timer);
      if (watching) refresh();
    },
  };
}

/** Puts `row` in the place of `old`, and the focus with it. */
function replace(old, row) {
  const hadFocus = old.contains(document.activeElement);
  old.replaceWith(row);
  if (hadFocus) row.querySelector("button, summary")?.focus();
}

function underWay(job, stop) {
  const bar = create("progress", {
    max: 1,
    attributes: { "aria-label": `${NAMES[job.type] ?? job.type}, progress` },
  });
  const { processed, total } = job.progress;
  if (total) bar.value = processed / total;
  else bar.removeAttribute("value");
  return [button("Stop", () => stop(job), { className: "button button-small" }), bar];
}

function detailOf(job) {
  if (job.error) return sentence(job.error);
  const parts = [];
  if (job.waiting) parts.push(`waiting: ${job.waiting}`);
  else if (job.phase && isUnfinished(job)) parts.push(job.phase);
  if (job.type === "add" || isUnfinished(job)) parts.push(...numbersOf(job));
  if (job.finished_at) parts.push(moment(job.finished_at));
  if (job.started_at && job.finished_at) {
    parts.push(`took ${seconds((new Date(job.finished_at) - new Date(job.started_at)) / 1000)}`);
  }
  return parts.join(", ");
}

function numbersOf({ type, progress: { total, processed, added, replaced, skipped, failed } }) {
  if (type !== "add") return total ? [`${number(processed)} of ${number(total)}`] : [];
  const parts = [`${number(processed)} of ${number(total)} photos`];
  const outcomes = Object.entries({ added, replaced, skipped, failed }).filter(
    ([, value]) => value,
  );
  return [...parts, ...outcomes.map(([name, value]) => `${number(value)} ${name}`)];
}

/** Read from the service when they are opened. */
function errorsOf(job) {
  const list = create("ul", {
    className: "error-list",
    tabIndex: 0,
    attributes: { "aria-label": "Photos that were not added" },
  });
  const box = create(
    "details",
    { className: "row-errors" },
    create("summary", { text: "Photos that were not added" }),
    list,
  );
  box.addEventListener("toggle", async () => {
    if (!box.open || list.children.length) return;
    try {
      const { errors, total } = await getJobErrors(job.id, 200);
      list.replaceChildren(...errors.map(errorItem));
      if (total > errors.length)
        list.append(create("li", { text: `and ${number(total - errors.length)} more` }));
    } catch (error) {
      showError(PART, error);
    }
  });
  return box;
}
