// Talking to the service. Addresses are relative, so that a path prefix of a proxy just works.

const POLL_MS = 500;
/** How long a job is asked after while the service does not answer: long enough for a restart. */
const PATIENCE_MS = 60_000;
const PASSING = new Set([502, 503, 504]);
const UNFINISHED = new Set(["queued", "running"]);

/** An answer of the service that says why it did not do what was asked. */
export class Problem extends Error {
  constructor(status, content) {
    super(content.detail || `The service answered with status ${status}.`);
    this.status = status;
    this.code = content.code || "";
    this.requestId = content.request_id || "";
  }
}

/** No answer at all: stopped, restarting, or the network is gone. */
export class Unreachable extends Error {
  constructor() {
    super("The service cannot be reached. Check that it is running, then try again.");
  }
}

export const isAbort = (error) => error?.name === "AbortError";

/** Ids may hold slashes, which stay; everything else of a segment is escaped. */
export const imagePath = (id) => `images/${id.split("/").map(encodeURIComponent).join("/")}`;

/** Sent to the window when the service wants a key that this page does not have. */
export const KEY_NEEDED = "cooc:key-needed";

export const getSession = () => request("session");
export const closeSession = () => request("session", { method: "DELETE" });
export const openSession = (key) =>
  request("session", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ key }),
  });

export const getVersion = () => request("version");
export const getReady = () => request("readyz");
export const getIndex = () => request("admin/index");
export const getJobs = () => request("jobs?limit=20");
export const getJob = (id, signal) => request(`jobs/${id}`, { signal });
export const getJobErrors = (id, limit) => request(`jobs/${id}/errors?limit=${limit}`);
export const cancelJob = (id) => request(`jobs/${id}`, { method: "DELETE" });
export const startBuild = () => request("admin/index/build", { method: "POST" });
export const reloadIndex = () => request("admin/index/reload", { method: "POST" });
export const deleteImage = (id) => request(imagePath(id), { method: "DELETE" });

export function searchByFile(file, options, signal) {
  const form = new FormData();
  for (const [name, value] of Object.entries(options)) form.append(name, String(value));
  form.append("image", file, file.name || "pasted");
  return request("search", { method: "POST", body: form, signal });
}

export function searchById(id, options, signal) {
  return request("search", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ query: { id }, ...options }),
    signal,
  });
}

async function request(path, options = {}) {
  let response, text;
  try {
    response = await fetch(path, options);
    text = await response.text();
  } catch (error) {
    throw isAbort(error) ? error : new Unreachable();
  }
  return understood(response.status, text);
}

/** The content of an answer. Throws Problem, also for what a proxy says in HTML. */
function understood(status, text) {
  const content = parsed(text);
  if (status >= 200 && status < 300) return content;
  if (status === 401) window.dispatchEvent(new Event(KEY_NEEDED));
  throw new Problem(status, content ?? {});
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

/**
 * Sends `items` ({file, name}) as one bulk add and returns the job.
 * XMLHttpRequest, because fetch cannot tell how much of a body has been sent.
 */
export function uploadBatch(items, { onSent, signal }) {
  const form = new FormData();
  for (const { file, name } of items) form.append("files", file, name);
  return new Promise((resolve, reject) => {
    const call = new XMLHttpRequest();
    call.open("POST", "index/add");
    call.upload.addEventListener("progress", (event) => {
      if (event.lengthComputable) onSent(event.loaded / event.total);
    });
    call.addEventListener("load", () => {
      try {
        resolve(understood(call.status, call.responseText));
      } catch (error) {
        reject(error);
      }
    });
    call.addEventListener("error", () => reject(new Unreachable()));
    call.addEventListener("abort", () => reject(abortError()));
    signal.addEventListener("abort", () => call.abort(), { once: true });
    if (signal.aborted) reject(abortError());
    else call.send(form);
  });
}

const abortError = () => new DOMException("stopped", "AbortError");

/**
 * Asks after a job until it has ended and returns it; `onProgress(job)` hears of each answer,
 * `onTrouble()` of each silence. Jobs survive a restart of the service, so short silences pass.
 */
export async function followJob(id, { onProgress, onTrouble, signal }) {
  let silentSince = null;
  for (;;) {
    try {
      const job = await getJob(id, signal);
      silentSince = null;
      onProgress(job);
      if (!isUnfinished(job)) return job;
    } catch (error) {
      if (!isPassing(error)) throw error;
      silentSince ??= Date.now();
      if (Date.now() - silentSince > PATIENCE_MS) throw error;
      onTrouble();
    }
    await sleep(POLL_MS, signal);
  }
}

export const isUnfinished = (job) => UNFINISHED.has(job.state);

const isPassing = (error) => error instanceof Unreachable || PASSING.has(error.status);

function sleep(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(abortError());
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, milliseconds);
    signal?.addEventListener("abort", stop, { once: true });
  });
}
