// Requests to the service. Addresses are relative, so that a path prefix of a proxy just works.

/** An answer of the service that says why it did not do what was asked. */
export class Problem extends Error {
  constructor(status, content, retryAfter = null) {
    super(content.detail || `The service answered with status ${status}.`);
    this.status = status;
    this.code = content.code || "";
    this.requestId = content.request_id || "";
    /** @type {{pointer: string, detail: string}[]} */
    this.fields = content.errors ?? [];
    /** Seconds to wait before asking again, where the service says so. */
    this.retryAfter = Number(retryAfter) || null;
  }
}

/** No answer at all: stopped, restarting, or the network is gone. */
export class Unreachable extends Error {
  constructor() {
    super("The service cannot be reached. Check that it is running, then try again.");
  }
}

/** Sent to the window when the service wants a key that this page does not have. */
export const KEY_NEEDED = "cooc:key-needed";

const PASSING = new Set([429, 502, 503, 504]);

export const isAbort = (error) => error?.name === "AbortError";
export const abortError = () => new DOMException("stopped", "AbortError");

/** Whether asking again later may help. */
export const isPassing = (error) => error instanceof Unreachable || PASSING.has(error?.status);

/** The content of the answer, or null if it has none. Throws Problem, Unreachable, AbortError. */
export async function request(path, options = {}) {
  let response, text;
  try {
    response = await fetch(path, options);
    text = await response.text();
  } catch (error) {
    throw isAbort(error) ? error : new Unreachable();
  }
  return understood(response.status, text, response.headers.get("Retry-After"));
}

/** A request with `content` as JSON. */
export const send = (method, path, content, options = {}) =>
  request(path, {
    method,
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(content),
    ...options,
  });

/** The content of an answer. Throws Problem, also for what a proxy says in HTML. */
export function understood(status, text, retryAfter = null) {
  const content = parsed(text);
  if (status >= 200 && status < 300) return content;
  if (status === 401) window.dispatchEvent(new Event(KEY_NEEDED));
  throw new Problem(status, content ?? {}, retryAfter);
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

/** `values` as the part of an address behind the question mark; null and "" are left out. */
export function queryString(values) {
  const given = Object.entries(values).filter(([, value]) => value !== null && value !== "");
  return new URLSearchParams(given).toString();
}
