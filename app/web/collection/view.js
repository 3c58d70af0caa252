// The collection: all photos in the order of their ids, a page at a time.

import { isAbort } from "../api/http.js";
import { deleteImage, getImages } from "../api/images.js";
import { confirmed } from "../ui/dialogs.js";
import { byId, create } from "../ui/dom.js";
import { makeGrid } from "../ui/grid.js";
import { makeJsonField } from "../ui/json_field.js";
import { announce, clearAlert, showAlert, showError } from "../ui/messages.js";
import { makeMore } from "../ui/more.js";
import { fileName, photoCard } from "../ui/photo_card.js";
import { count, explain, number } from "../ui/words.js";

const PART = "collection";
const PAGE = 60;
const MAX_EXAMPLES = 16;

/** `photos` is the dialog of single photos; `onSearch(ids)` is called to search with some. */
export function makeCollection({ photos, onSearch, onChanged }) {
  const list = byId("collection-list");
  const grid = makeGrid(list);
  const more = makeMore(byId("collection-more"), load);
  const field = byId("collection-filter");
  const json = makeJsonField(field, byId("collection-problem"));
  let images = [];
  let cursor = null;
  let filter = null;
  let total = null;
  let running = null;
  const selected = new Set();

  async function refresh() {
    running?.abort();
    running = new AbortController();
    images = [];
    cursor = null;
    list.replaceChildren();
    selected.clear();
    showSelection();
    byId("collection-empty").hidden = true;
    more.show(false);
    await load();
  }

  async function load() {
    const { signal } = running;
    const asked = cursor;
    clearAlert(PART);
    list.setAttribute("aria-busy", "true");
    try {
      const page = await getImages({ cursor: asked, limit: PAGE, filter }, signal);
      // The same page may have been asked for twice, by a second try and by scrolling.
      if (signal.aborted || cursor !== asked) return;
      cursor = page.next_cursor;
      images.push(...page.images);
      list.append(...page.images.map(card));
      show();
    } catch (error) {
      if (isAbort(error) || signal.aborted) return;
      if (error.code === "invalid_filter") json.complain(explain(error));
      else showError(PART, error, load);
    } finally {
      list.removeAttribute("aria-busy");
    }
  }

  function show() {
    grid.refresh();
    more.show(cursor !== null);
    const shown = `${number(images.length)}${cursor === null ? "" : "+"}`;
    const photos = images.length === 1 ? "photo" : "photos";
    byId("collection-brief").textContent = filter
      ? `${shown} ${images.length === 1 ? "photo passes" : "photos pass"} the filter`
      : total === null
        ? `${shown} ${photos}`
        : count(total, "photo");
    byId("collection-empty").hidden = images.length > 0 || cursor !== null;
    byId("collection-empty-title").textContent = filter
      ? "No photo passes the filter"
      : "The collection is empty";
    byId("collection-empty-hint").textContent = filter
      ? 'Names and types have to be as they were stored: 2024 is not "2024".'
      : "Add photos, and they show up here.";
    byId("collection-empty-add").hidden = Boolean(filter);
  }

  function card(image) {
    const box = create("input", {
      type: "checkbox",
      className: "card-select",
      autocomplete: "off",
      attributes: { "aria-label": `Select ${image.id}` },
    });
    box.addEventListener("change", () => {
      if (box.checked) selected.add(image.id);
      else selected.delete(image.id);
      box.closest(".card").classList.toggle("card-selected", box.checked);
      showSelection();
    });
    return photoCard({
      ...image,
      label: image.id,
      caption: [
        create(
          "p",
          { className: "card-line card-small", attributes: { "aria-hidden": "true" } },
          create("span", { className: "card-id", text: fileName(image.id), title: image.id }),
        ),
      ],
      tools: [box],
      onOpen: () => open(image),
    });
  }

  function open(image) {
    photos.open({
      list: images,
      at: images.indexOf(image),
      comparison: null,
      onSearch: ({ id }) => onSearch([id]),
      onExample: () => {},
      onFilter: use,
      onRemoved: drop,
      onClosed: ({ id }) => grid.focus(cardOf(id)),
    });
  }

  const cardOf = (id) => [...list.children].find((item) => item.dataset.id === id);

  function drop(id) {
    cardOf(id)?.remove();
    images = images.filter((image) => image.id !== id);
    selected.delete(id);
    if (total !== null) total -= 1;
    showSelection();
    show();
  }

  // --- selected photos ----------------------------------------------------------------------

  function showSelection() {
    byId("selection").hidden = !selected.size;
    byId("selection-count").textContent = `${number(selected.size)} selected`;
    byId("selection-search").disabled = selected.size > MAX_EXAMPLES;
    byId("selection-search").title = selected.size > MAX_EXAMPLES ? "At most 16 photos" : "";
  }

  function clearSelection() {
    selected.clear();
    for (const item of list.children) {
      item.classList.remove("card-selected");
      item.querySelector(".card-select").checked = false;
    }
    showSelection();
  }

  async function removeSelected() {
    const ids = [...selected];
    const sure = await confirmed({
      title: `Remove ${count(ids.length, "photo")}?`,
      subject:
        ids.length > 3
          ? `${ids.slice(0, 3).join(", ")} and ${number(ids.length - 3)} more`
          : ids.join(", "),
      text: "They are taken out of the collection; no later search finds them.",
      action: "Remove",
    });
    if (!sure) return;
    let removed = 0;
    try {
      for (const id of ids) {
        await deleteImage(id).catch(passUnknown);
        removed += 1;
        drop(id);
      }
    } catch (error) {
      showAlert(
        PART,
        `${number(removed)} of ${count(ids.length, "photo")} were removed. ${explain(error)}`,
      );
    }
    announce(`Removed ${count(removed, "photo")}`);
    byId("collection-title").focus();
    onChanged();
  }

  byId("selection-clear").addEventListener("click", () => {
    clearSelection();
    byId("collection-title").focus();
  });
  byId("selection-search").addEventListener("click", () => onSearch([...selected]));
  byId("selection-remove").addEventListener("click", removeSelected);
  function apply() {
    const next = json.read();
    if (next === undefined) return field.focus();
    filter = next;
    return refresh();
  }

  function use(next) {
    field.value = JSON.stringify(next);
    apply();
  }

  byId("collection-form").addEventListener("submit", (event) => {
    event.preventDefault();
    apply();
  });

  return {
    /** Called when the collection comes into view. */
    enter: refresh,
    setTotal(next) {
      total = next;
      if (images.length) show();
    },
  };
}

/** Somebody else removed it: that is what was wanted. */
function passUnknown(error) {
  if (error.status !== 404) throw error;
}
