// The page: makes its parts and tells them of each other's changes.

import { getJobs, isUnfinished } from "./api/jobs.js";
import { makeAdd } from "./add/view.js";
import { makeCollection } from "./collection/view.js";
import { followHistory, goTo, readAddress } from "./frame/address.js";
import { may, signIn, wireKeyField } from "./frame/session.js";
import { makeStatus } from "./frame/status.js";
import { makeTheme } from "./frame/theme.js";
import { makeViews } from "./frame/views.js";
import { makeIndex } from "./index/view.js";
import { makePhotos } from "./photo/dialog.js";
import { makeSearch } from "./search/view.js";
import { webAddress } from "./search/url_query.js";
import { byId, takesText } from "./ui/dom.js";
import { holdsFolder, pastedImage, takeDrops } from "./ui/drop.js";
import { drawIcons } from "./ui/icons.js";
import { showAlert } from "./ui/messages.js";

const refresh = () => status.refresh();
const changed = () => {
  search.changed();
  refresh();
};

const photos = makePhotos({ onCollectionChanged: changed });
const search = makeSearch({ photos, onAnswered: () => status.recover() });
const collection = makeCollection({
  photos,
  onSearch(ids) {
    views.show("search");
    search.searchIds(ids);
  },
  onChanged: changed,
});
const add = makeAdd({ onAdded: changed });
const index = makeIndex({ onChanged: refresh });
const views = makeViews({ collection, index }, { onChosen: choose });
const status = makeStatus(({ version, index: state }) => {
  const accepts = version.accepts ?? {};
  for (const part of [search, add, photos]) part.setService(accepts);
  if (state) {
    collection.setTotal(state.count);
    index.show(state, version);
  }
  takeUpJobs();
});

function choose(name) {
  if (name === views.shown()) return views.show(name, { focus: true });
  if (name === "home") {
    views.show("search", { focus: true });
    goTo({ view: "search" });
    return search.restore({}, null);
  }
  // To a search there was the visitor comes back, with its results.
  goTo(
    name === "search" ? search.place() : { view: name },
    name === "search" ? search.query() : null,
  );
  views.show(name, { focus: true });
}

/** Shows what the address says, or what the visitor goes back to. */
function restore(place, memory) {
  // What they are about is left; only a key is still needed.
  for (const dialog of document.querySelectorAll("dialog[open]:not(#sign-in)")) dialog.close();
  if (views.show(place.view) === "search") search.restore(place, memory);
}

const takesPhotos = () => views.shown() === "add" && may("write");

function takeDrop(transfer) {
  if (takesPhotos()) return add.takeDrop(transfer);
  if (holdsFolder(transfer)) {
    return showAlert("search", "That is a folder. Drop it on “Add photos” to add what it holds.");
  }
  const files = [...transfer.files];
  if (!files.length)
    return showAlert("search", "That was no file. Save the photo first, then drop it here.");
  views.show("search");
  search.searchFiles(files);
}

takeDrops(takeDrop, () => (takesPhotos() ? "Drop to add" : "Drop to search"));

document.addEventListener("paste", (event) => {
  if (document.querySelector("dialog[open]")) return;
  const image = pastedImage(event.clipboardData);
  const text = takesText(event.target) ? "" : (event.clipboardData?.getData("text/plain") ?? "");
  const url = search.takesUrls() ? webAddress(text) : null;
  if (!image && !url) return;
  event.preventDefault();
  views.show("search");
  if (image) search.searchFiles([image]);
  else search.searchUrl(url);
});

let tookUp = false;

/** Long work goes on without the page; a page that is opened meanwhile shows it. */
async function takeUpJobs() {
  if (tookUp) return;
  tookUp = true;
  let jobs;
  try {
    jobs = (await getJobs()).filter(isUnfinished).reverse();
  } catch {
    return; // a convenience only: the page works without it
  }
  if (may("write")) add.resume(jobs.filter(({ type }) => type === "add"));
  if (may("admin")) index.resume(jobs.filter(({ type }) => type === "build"));
}

function signedInAgain() {
  search.changed();
  search.signedIn();
  views.again();
  refresh();
}

// As a fragment of the address it would be an entry of the history, which asks for a search.
document.querySelector(".skip-link").addEventListener("click", (event) => {
  event.preventDefault();
  byId("main").focus();
});

drawIcons();
makeTheme();
wireKeyField();
await signIn(signedInAgain);
restore(readAddress(), null);
followHistory(restore);
await refresh();
byId("main").dataset.ready = "yes";
