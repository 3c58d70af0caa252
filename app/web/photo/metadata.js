// Metadata of one photo: shown, filtered by, changed.

import { patchImage } from "../api/images.js";
import { byId, create } from "../ui/dom.js";
import { makeJsonField } from "../ui/json_field.js";
import { announce } from "../ui/messages.js";
import { explain } from "../ui/words.js";
import { difference } from "./merge_patch.js";

/** `onSaved(photo)` is called when the metadata of the photo has changed. */
export function makeMetadata({ onSaved }) {
  const form = byId("metadata-form");
  const text = byId("metadata-text");
  const json = makeJsonField(text, byId("metadata-problem"));
  let photo = null;
  let onFilter = null;

  function show(next, filterBy) {
    photo = next;
    onFilter = filterBy;
    edit(false);
    const entries = Object.entries(photo.metadata ?? {});
    byId("metadata-list").replaceChildren(...entries.map(entry));
    byId("metadata-none").hidden = entries.length > 0;
  }

  function entry([name, value]) {
    const shown = typeof value === "string" ? value : JSON.stringify(value);
    const simple = ["string", "number", "boolean"].includes(typeof value);
    const content = onFilter && simple ? filterButton(name, value, shown) : shown;
    return create(
      "div",
      { className: "fact" },
      create("dt", { text: name }),
      create("dd", {}, content),
    );
  }

  function filterButton(name, value, shown) {
    const button = create("button", {
      className: "filter-value",
      type: "button",
      text: shown,
      title: "Search only among photos that have this",
    });
    button.addEventListener("click", () => onFilter({ field: name, eq: value }));
    return button;
  }

  function edit(editing) {
    form.hidden = !editing;
    byId("metadata-list").hidden = byId("metadata-edit").hidden = editing;
    json.complain("");
    if (!editing) return;
    text.value = JSON.stringify(photo.metadata ?? {}, null, 2);
    text.focus();
  }

  async function save() {
    const next = json.read();
    if (next === undefined) return text.focus();
    const edited = photo;
    try {
      const saved = await patchImage(edited.id, difference(edited.metadata ?? {}, next ?? {}));
      edited.metadata = saved.metadata;
      if (edited === photo) show(photo, onFilter);
      byId("metadata-edit").focus();
      announce("The metadata is saved");
      onSaved(edited);
    } catch (error) {
      json.complain(explain(error));
    }
  }

  byId("metadata-edit").addEventListener("click", () => edit(true));
  byId("metadata-cancel").addEventListener("click", () => {
    edit(false);
    byId("metadata-edit").focus();
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    save();
  });

  return { show, isEditing: () => !form.hidden, cancel: () => edit(false) };
}
