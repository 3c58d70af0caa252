// One photo: beside its query if it is a result, with its metadata and what can be done with it.

import { deleteImage, originalPath, thumbnailPath } from "../api/images.js";
import { tryInTurn } from "../search/query_panel.js";
import { closeOnBackdrop, confirmed } from "../ui/dialogs.js";
import { byId, takesText } from "../ui/dom.js";
import { announce, clearAlert, showError } from "../ui/messages.js";
import { number } from "../ui/words.js";
import { makeComparison } from "./comparison.js";
import { makeMetadata } from "./metadata.js";

const PART = "photo";
const KEYS = { ArrowLeft: -1, ArrowRight: 1 };

/**
 * `open(session)` shows `session.list[session.at]`, a photo of a list that can be leafed through.
 * @typedef {object} Session
 * @property {object[]} list results of a search, or stored images
 * @property {number} at
 * @property {object | null} comparison what the list was found with: {query, main, options}
 * @property {(photo: object) => void} onSearch
 * @property {(side: string, photo: object) => void} onExample
 * @property {((filter: object) => void) | null} onFilter
 * @property {(id: string) => void} onRemoved
 * @property {(photo: object) => void} onClosed
 */
export function makePhotos({ onCollectionChanged }) {
  const dialog = byId("photo");
  const comparison = makeComparison();
  const metadata = makeMetadata({ onSaved: () => {} });
  /** @type {Session | null} */
  let session = null;
  let keepsOriginals = false;

  const photo = () => session.list[session.at];

  function open(next) {
    session = { ...next, list: [...next.list] };
    show();
    dialog.showModal();
    byId("photo-title").focus();
  }

  function show() {
    const { id } = photo();
    byId("photo-title").textContent = id;
    byId("photo-title").title = id;
    showPlace();
    byId("photo-unlike").hidden = !session.comparison;
    byId("photo-like").hidden = !session.comparison;
    showPicture(id);
    comparison.show(photo(), session.comparison, keepsOriginals);
    metadata.show(photo(), session.onFilter && filterBy);
    dialog.scrollTop = 0;
  }

  function showPlace() {
    byId("photo-place").textContent = `${number(session.at + 1)} of ${number(session.list.length)}`;
    byId("photo-previous").disabled = session.at === 0;
    byId("photo-next").disabled = session.at === session.list.length - 1;
  }

  function showPicture(id) {
    const link = byId("photo-full");
    link.hidden = true;
    link.href = originalPath(id);
    byId("pair-photo").alt = id;
    const sources = keepsOriginals ? [originalPath(id), thumbnailPath(id)] : [thumbnailPath(id)];
    tryInTurn(byId("pair-photo"), sources, (shown, source) => {
      link.hidden = source !== originalPath(id);
    });
  }

  function leaf(step) {
    const next = session.at + step;
    if (next < 0 || next >= session.list.length) return;
    session.at = next;
    show();
    announce(`${photo().id}, ${byId("photo-place").textContent}`);
  }

  /** Closes the dialog, then does what leads elsewhere. */
  function leave(task) {
    const chosen = photo();
    const left = session;
    session = { ...session, onClosed: () => {} };
    dialog.close();
    task(left, chosen);
  }

  const filterBy = (filter) => leave(({ onFilter }) => onFilter(filter));

  async function remove() {
    const { id } = photo();
    const about = session;
    const sure = await confirmed({
      title: "Remove this photo?",
      subject: id,
      text: "It is taken out of the collection; no later search finds it.",
      action: "Remove",
    });
    if (!sure) return;
    clearAlert(PART);
    try {
      await deleteImage(id);
    } catch (error) {
      // Somebody else removed it: that is what was wanted.
      if (error.status !== 404) {
        dialog.close();
        return showError(PART, error);
      }
    }
    // The visitor may have gone on to another photo meanwhile.
    const at = about.list.findIndex((other) => other.id === id);
    if (at < 0) return;
    about.list.splice(at, 1);
    about.onRemoved(id);
    onCollectionChanged();
    if (about === session && dialog.open) showRest(at);
    announce(`Removed ${id}`);
  }

  /** After the photo at `gone` was taken out of the list. */
  function showRest(gone) {
    if (!session.list.length) return dialog.close();
    const wasShown = gone === session.at;
    if (gone < session.at) session.at -= 1;
    session.at = Math.min(session.at, session.list.length - 1);
    if (wasShown) show();
    else showPlace();
  }

  byId("photo-search").addEventListener("click", () =>
    leave((left, chosen) => left.onSearch(chosen)),
  );
  byId("photo-like").addEventListener("click", () =>
    leave((left, chosen) => left.onExample("positives", chosen)),
  );
  byId("photo-unlike").addEventListener("click", () =>
    leave((left, chosen) => left.onExample("negatives", chosen)),
  );
  byId("photo-remove").addEventListener("click", remove);
  byId("photo-previous").addEventListener("click", () => leaf(-1));
  byId("photo-next").addEventListener("click", () => leaf(1));
  byId("photo-close").addEventListener("click", () => dialog.close());
  closeOnBackdrop(dialog);
  dialog.addEventListener("keydown", (event) => {
    if (!(event.key in KEYS) || takesText(event.target)) return;
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    leaf(KEYS[event.key]);
  });
  // Esc leaves the text that is being edited first.
  dialog.addEventListener("cancel", (event) => {
    if (!metadata.isEditing()) return;
    event.preventDefault();
    metadata.cancel();
    byId("metadata-edit").focus();
  });
  dialog.addEventListener("close", () => {
    comparison.leave();
    if (session?.list.length) session.onClosed(photo());
  });

  return { open, setService: ({ originals }) => (keepsOriginals = Boolean(originals)) };
}
