// The page: makes its parts and tells them of each other's changes.

import { getJobs, isUnfinished } from "./api.js";
import { makeAdd } from "./add.js";
import { ignoreStrayDrops } from "./drop.js";
import { makePanel } from "./panel.js";
import { makeSearch } from "./search.js";
import { makeStatus } from "./status.js";

const refresh = () => status.refresh();

const panel = makePanel({ onChanged: refresh });
const add = makeAdd({ onAdded: refresh });
makeSearch({ onRemoved: refresh });
const status = makeStatus(panel.show);

ignoreStrayDrops();
refresh();
takeUpJobs();

/** Long work goes on without the page; a page that is opened meanwhile shows it. */
async function takeUpJobs() {
  let jobs;
  try {
    jobs = (await getJobs()).jobs.filter(isUnfinished).reverse();
  } catch {
    return; // why the service does not answer is shown by the status already
  }
  add.resume(jobs.filter(({ type }) => type === "add"));
  panel.resume(jobs.filter(({ type }) => type === "build"));
}
