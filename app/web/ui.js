// Small things that every part of the page uses: elements, words and numbers, alerts.

export const byId = (id) => document.getElementById(id);

/** A new element. Data only ever becomes text or a property, never markup. */
export function create(tag, { className, text, attributes, ...properties } = {}, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  for (const [name, value] of Object.entries(attributes ?? {})) element.setAttribute(name, value);
  Object.assign(element, properties);
  element.append(...children);
  return element;
}

/** Shows `text` in `element`, or hides the element when there is none. */
export function showText(element, text) {
  element.textContent = text ?? "";
  element.hidden = !text;
}

const WHOLE = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const MOMENT = new Intl.DateTimeFormat("en", {
  dateStyle: "medium",
  timeStyle: "short",
  hourCycle: "h23",
});

export const number = (value) => WHOLE.format(value);
export const count = (value, noun) => `${number(value)} ${noun}${value === 1 ? "" : "s"}`;
export const moment = (text) => MOMENT.format(new Date(text));

export function milliseconds(value) {
  if (value >= 1000) return `${(value / 1000).toFixed(1)} s`;
  return value < 0.5 ? "under 1 ms" : `${Math.round(value)} ms`;
}

export function megabytes(bytes) {
  const value = bytes / 1e6;
  if (value < 1) return `${number(Math.ceil(bytes / 1e3))} kB`;
  return `${value < 10 ? value.toFixed(1) : number(value)} MB`;
}

/** Tells screen readers; what is said twice in a row has to differ to be heard twice. */
export function announce(text) {
  const announcer = byId("announcer");
  announcer.textContent = announcer.textContent === text ? `${text}\u00a0` : text;
}

// --- alerts: one per part of the page, so that a new attempt replaces what the last one said ---

const alerts = new Map();

export function showAlert(part, text) {
  clearAlert(part);
  // A service that is down is noticed by several parts, and is worth one message.
  for (const [other, shown] of alerts) if (shown.dataset.text === text) clearAlert(other);
  const dismiss = create("button", {
    className: "alert-dismiss",
    type: "button",
    text: "\u00d7",
    title: "Dismiss",
    attributes: { "aria-label": "Dismiss this message" },
  });
  dismiss.addEventListener("click", () => clearAlert(part));
  const alert = create(
    "div",
    { className: "alert", attributes: { role: "alert", "data-part": part, "data-text": text } },
    create("p", { text }),
    dismiss,
  );
  alerts.set(part, alert);
  byId("alerts").append(alert);
}

export function clearAlert(part) {
  alerts.get(part)?.remove();
  alerts.delete(part);
}

export const showError = (part, error) => showAlert(part, explain(error));

/** What went wrong, for people; faults of the service come with what its log knows them by. */
export function explain(error) {
  const id = error.status >= 500 && error.requestId ? ` (request ${error.requestId})` : "";
  return sentence(error.message) + id;
}

/** The service words its details as clauses; on the page they stand alone. */
export function sentence(text) {
  const trimmed = text.trim();
  const capital = trimmed.charAt(0).toUpperCase() + trimmed.slice(1);
  return /[.!?…)]$/.test(capital) ? capital : `${capital}.`;
}
