// What came of an addition, and what to do next.

import { isAbort } from "../api/http.js";
import { byId, create, showText } from "../ui/dom.js";
import { announce, showError } from "../ui/messages.js";
import { count, explain, number, sentence } from "../ui/words.js";
import { tally } from "./progress.js";

export function showSummary(part, run) {
  const line = `${heading(run)}: ${tally(run.counts)}.`;
  const added = run.counts.added + run.counts.replaced;
  byId("add-summary").hidden = false;
  byId("add-summary").dataset.outcome = outcomeOf(run);
  byId("add-summary-line").textContent = line;
  byId("add-summary-next").hidden = !added;
  showText(byId("add-summary-detail"), details(run).join(" "));
  showEntries(run);
  announce(line);
  if (run.trouble && !isAbort(run.trouble)) showError(part, run.trouble);
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
  box.open = run.counts.failed > 0;
  if (box.hidden) return;
  const all = run.entries.length + run.unlisted;
  const more = run.unlisted ? `, the first ${number(run.entries.length)} are listed` : "";
  byId("add-errors-title").textContent = `${count(all, "file")} not added, and why${more}`;
  byId("add-error-list").replaceChildren(...run.entries.map(errorItem));
}

/** A photo that was not added, and why; also for the list of jobs. */
export function errorItem({ name, outcome, detail }) {
  return create(
    "li",
    { attributes: { "data-outcome": outcome } },
    create("span", { className: "error-name", text: name }),
    create("span", { className: "error-detail", text: `${outcome}: ${detail}` }),
  );
}
