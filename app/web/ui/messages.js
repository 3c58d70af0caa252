// Messages: for screen readers, and alerts, of which each part of the page has one at most.

import { button, byId, create } from "./dom.js";
import { explain } from "./words.js";

/** Tells screen readers; what is said twice in a row has to differ to be heard twice. */
export function announce(text) {
  // What is outside of an open dialog is not heard.
  const dialog = document.querySelector("dialog[open]:has(.announcer)");
  const announcer = dialog?.querySelector(".announcer") ?? byId("announcer");
  announcer.textContent = announcer.textContent === text ? `${text}\u00a0` : text;
}

const alerts = new Map();

/** Shows `text` in the place of what `part` said last; `again()` is offered as a second try. */
export function showAlert(part, text, again = null) {
  clearAlert(part);
  // A service that is down is noticed by several parts, and is worth one message.
  for (const [other, shown] of alerts) if (shown.dataset.text === text) clearAlert(other);
  const dismiss = button("\u00d7", () => clearAlert(part), {
    className: "alert-dismiss",
    title: "Dismiss",
    attributes: { "aria-label": "Dismiss this message" },
  });
  const retry = () => {
    clearAlert(part);
    again();
  };
  const offers = again ? [button("Try again", retry, { className: "button button-small" })] : [];
  const alert = create(
    "div",
    { className: "alert", attributes: { role: "alert", "data-part": part, "data-text": text } },
    create("p", { text }),
    ...offers,
    dismiss,
  );
  alerts.set(part, alert);
  byId("alerts").append(alert);
}

export function clearAlert(part) {
  alerts.get(part)?.remove();
  alerts.delete(part);
}

export const showError = (part, error, again = null) => showAlert(part, explain(error), again);
