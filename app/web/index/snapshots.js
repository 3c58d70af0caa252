// Snapshots: those there are, and taking one.

import { followJob } from "../api/jobs.js";
import { getSnapshots, takeSnapshot } from "../api/index.js";
import { byId, create } from "../ui/dom.js";
import { showError } from "../ui/messages.js";
import { count, megabytes, moment, sentence } from "../ui/words.js";

/** `operate(task)` as for generations; `onJob()` is called when one was queued. */
export function makeSnapshots({ operate, onJob }) {
  async function refresh() {
    let found;
    try {
      found = await getSnapshots();
    } catch (error) {
      return showError("snapshots", error);
    }
    byId("snapshot-list").replaceChildren(...found.reverse().map(row));
  }

  const take = () =>
    operate(async () => {
      const accepted = await takeSnapshot(byId("snapshot-note").value.trim());
      onJob();
      const job = await followJob(accepted.id);
      await refresh();
      if (job.state !== "succeeded")
        throw new Error(sentence(job.error ?? `The snapshot was ${job.state}`));
      byId("snapshot-note").value = "";
      return "The snapshot is taken.";
    });

  byId("snapshot-form").addEventListener("submit", (event) => {
    event.preventDefault();
    take();
  });
  return { refresh };
}

function row({ name, note, created_at: at, count: photos, bytes, problem }) {
  const facts = problem
    ? `cannot be used: ${problem}`
    : [count(photos, "photo"), megabytes(bytes), at && moment(at)].filter(Boolean).join(", ");
  return create(
    "li",
    { className: "row" },
    create(
      "span",
      { className: "row-name" },
      create("span", { text: note || name, title: name }),
      create("span", { className: "row-detail", text: facts }),
    ),
  );
}
