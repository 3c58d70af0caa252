// Files that are dropped or pasted anywhere on the page, folders included.

import { byId } from "./dom.js";

const HIDDEN_FILES = new Set(["Thumbs.db", "desktop.ini"]);
const WANTED =
  /\.(jpe?g|jfif|png|webp|gif|bmp|tiff?|avif|heic|heif|zip|tar|tgz|tbz2?|txz|tar\.\w+)$/i;

/**
 * Calls `onDrop(dataTransfer)` for files dropped on the page, which shows that it takes them;
 * `words()` say what for.
 */
export function takeDrops(onDrop, words) {
  // dragenter and dragleave also come from the elements inside, hence the count.
  let depth = 0;
  const show = () => {
    if (depth) byId("drop-note").textContent = words();
    document.body.classList.toggle("dropping", depth > 0);
  };
  addEventListener("dragenter", (event) => {
    if (!hasFiles(event) || isBlocked()) return;
    depth += 1;
    show();
  });
  addEventListener("dragleave", () => {
    depth = Math.max(0, depth - 1);
    show();
  });
  addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    event.dataTransfer.dropEffect = isBlocked() ? "none" : "copy";
  });
  addEventListener("drop", (event) => {
    depth = 0;
    show();
    // Whatever it is must not replace the page.
    event.preventDefault();
    if (hasFiles(event) && !isBlocked()) onDrop(event.dataTransfer);
  });
}

const hasFiles = (event) => event.dataTransfer?.types.includes("Files");

/** What is behind a dialog does not take drops. */
const isBlocked = () => document.querySelector("dialog[open]") !== null;

/** Whether a folder is dropped; to be asked during the event. */
export const holdsFolder = (transfer) =>
  [...transfer.items].some((item) => item.webkitGetAsEntry?.()?.isDirectory);

/** The first image on a clipboard, or undefined. */
export function pastedImage(clipboard) {
  return [...(clipboard?.files ?? [])].find((file) => file.type.startsWith("image/"));
}

/**
 * {file, name} of everything dropped; `leftOut` counts what folders held besides photos, and
 * `unreadable` are {name} of what the browser may not read, or links that lead nowhere.
 */
export async function droppedItems(transfer) {
  // Entries are only at hand during the event, so all are taken before the first wait.
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) {
    return { items: [...transfer.files].map(asItem), leftOut: 0, unreadable: [] };
  }
  const items = [];
  const inFolders = [];
  const unreadable = [];
  for (const entry of entries) {
    if (entry.isDirectory) await collect(entry, inFolders, unreadable);
    else await take(entry, items, unreadable);
  }
  const photos = photosOf(inFolders);
  return { items: [...items, ...photos.items], leftOut: photos.leftOut, unreadable };
}

/** The same for a folder that was chosen in the browser's dialog. */
export const folderItems = (files) => photosOf([...files].map(asItem));

/** A file under its path, so that photos of different folders keep different ids. */
export const asItem = (file) => ({ file, name: file.webkitRelativePath || file.name });

function photosOf(all) {
  const visible = all.filter(({ name }) => !isHidden(name));
  const items = visible.filter(({ name }) => WANTED.test(name));
  return { items, leftOut: visible.length - items.length };
}

const isHidden = (path) =>
  path.split("/").some((part) => part.startsWith(".") || HIDDEN_FILES.has(part));

async function collect(folder, into, unreadable) {
  const reader = folder.createReader();
  for (;;) {
    // A reader hands out about a hundred entries at a time, and none at the end.
    const read = new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    const entries = await read.catch(() => null);
    if (!entries) unreadable.push({ name: pathOf(folder) });
    if (!entries?.length) return;
    for (const entry of entries) {
      if (entry.isDirectory) await collect(entry, into, unreadable);
      else await take(entry, into, unreadable);
    }
  }
}

async function take(entry, into, unreadable) {
  const name = pathOf(entry);
  try {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    into.push({ file, name });
  } catch {
    if (!isHidden(name)) unreadable.push({ name });
  }
}

const pathOf = (entry) => entry.fullPath.replace(/^\//, "");
