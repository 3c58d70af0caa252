// Numbers, times and messages, in words for people.

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

export function seconds(value) {
  if (value < 1) return "under 1 s";
  if (value < 90) return `${Math.round(value)} s`;
  return value < 5400 ? `${Math.round(value / 60)} min` : `${(value / 3600).toFixed(1)} h`;
}

export function megabytes(bytes) {
  const value = bytes / 1e6;
  if (value < 1) return `${number(Math.ceil(bytes / 1e3))} kB`;
  if (value >= 1e3) return `${(value / 1e3).toFixed(1)} GB`;
  return `${value < 10 ? value.toFixed(1) : number(value)} MB`;
}

/** A probability; never rounded up to certainty, nor down to none. */
export function percent(share) {
  if (share === 1) return "100 %";
  if (share > 0 && share < 0.001) return "< 0.1 %";
  if (share > 0.999 && share < 1) return "> 99.9 %";
  return `${(100 * share).toFixed(share >= 0.1 && share < 0.99 ? 0 : 1)} %`;
}

/** The service words its details as clauses; on the page they stand alone. */
export function sentence(text) {
  const trimmed = text.trim();
  const capital = trimmed.charAt(0).toUpperCase() + trimmed.slice(1);
  return /[.!?…)]$/.test(capital) ? capital : `${capital}.`;
}

/** What went wrong, for people; faults of the service come with what its log knows them by. */
export function explain(error) {
  const id = error.status >= 500 && error.requestId ? ` (request ${error.requestId})` : "";
  const again = error.retryAfter ? ` It asks to wait ${count(error.retryAfter, "second")}.` : "";
  return sentence(error.message) + again + id;
}
