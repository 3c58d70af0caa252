// The page: makes its parts and tells them of each other's changes.

import { getJobs, isUnfinished } from "./api.js";
import { makeAdd } from "./add.js";
import { ignoreStrayDrops } from "./drop.js";
import { makePanel } from "./panel.js";
import { makeSearch } from "./search.js";
import { signIn } from "./session.js";
import { makeStatus } from "./status.js";

const refresh = () => status.refresh();

const panel = makePanel({ onChanged: refresh });
const add = makeAdd({ onAdded: refresh });
makeSearch({ onAnswered: () => status.recover(), onRemoved: refresh });
const status = makeStatus((index, version) => {
  panel.show(index, version);
  takeUpJobs();
});

ignoreStrayDrops();
signIn().then(refresh);

let tookUp = false;

/** Long work goes on without the page; a page that is opened meanwhile shows it. */
async function takeUpJobs() {
  if (tookUp) return;
  tookUp = true;
  let jobs;
  try {
    jobs = (await getJobs()).jobs.filter(isUnfinished).reverse();
  } catch {
    return; // a convenience only: the page works without it
  }
  add.resume(jobs.filter(({ type }) => type === "add"));
  panel.resume(jobs.filter(({ type }) => type === "build"));
}
