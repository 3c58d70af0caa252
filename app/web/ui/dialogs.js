// Dialogs that ask something.

import { byId } from "./dom.js";

/** Opens a dialog whose form closes it; resolves with whether it was left by its button "ok". */
export function ask(dialog) {
  dialog.returnValue = "cancel";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "ok"), { once: true });
  });
}

/** Asks before something that cannot be undone. */
export function confirmed({ title, subject = "", text, action }) {
  byId("confirm-title").textContent = title;
  byId("confirm-subject").textContent = subject;
  byId("confirm-subject").hidden = !subject;
  byId("confirm-text").textContent = text;
  byId("confirm-ok").textContent = action;
  return ask(byId("confirm"));
}

/** A click beside a dialog closes it, as Esc does. */
export function closeOnBackdrop(dialog) {
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
}
