// Long work: starting uploads, following jobs to their end, stopping them.

import { abortError, isPassing, request, send, understood, Unreachable } from "./http.js";

const POLL_MS = 500;
/** How long a job is asked after while the service does not answer: long enough for a restart. */
const PATIENCE_MS = 60_000;
/** The first event comes at once, unless a proxy holds events back. */
const FIRST_EVENT_MS = 4000;
const UNFINISHED = new Set(["queued", "running"]);

export const isUnfinished = (job) => UNFINISHED.has(job.state);

export const getJobs = (limit = 20) => request(`jobs?limit=${limit}`).then(({ jobs }) => jobs);
export const getJob = (id, signal) => request(`jobs/${id}`, { signal });
export const getJobErrors = (id, limit) => request(`jobs/${id}/errors?limit=${limit}`);
export const cancelJob = (id) => request(`jobs/${id}`, { method: "DELETE" });
export const addUrls = (urls, metadata) =>
  send("POST", "index/add", { images: urls.map((url) => ({ url, metadata })) });

/**
 * Sends `items` ({file, name}) as one bulk add and returns the job.
 * XMLHttpRequest, because fetch cannot tell how much of a body has been sent.
 */
export function uploadBatch(items, { metadata, onSent, signal }) {
  const form = new FormData();
  if (metadata) form.append("metadata", JSON.stringify(metadata));
  for (const { file, name } of items) form.append("files", file, name);
  return new Promise((resolve, reject) => {
    const call = new XMLHttpRequest();
    call.open("POST", "index/add");
    call.upload.addEventListener("progress", (event) => {
      if (event.lengthComputable) onSent(event.loaded / event.total);
    });
    call.addEventListener("load", () => {
      try {
        resolve(understood(call.status, call.responseText, call.getResponseHeader("Retry-After")));
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

/**
 * Hears of a job until it has ended and returns it; `onProgress(job)` gets each state of it,
 * `onTrouble()` each silence. Jobs survive a restart of the service, so short silences pass.
 */
export async function followJob(id, { onProgress = () => {}, onTrouble = () => {}, signal } = {}) {
  const ended = await listen(id, { onProgress, signal });
  return ended ?? poll(id, { onProgress, onTrouble, signal });
}

/** The job at its end, as told by events; null where events do not come through. */
function listen(id, { onProgress, signal }) {
  return new Promise((resolve, reject) => {
    const events = new EventSource(`jobs/${id}/events`);
    const held = setTimeout(() => finish(resolve, null), FIRST_EVENT_MS);
    const finish = (settle, value) => {
      clearTimeout(held);
      events.close();
      signal?.removeEventListener("abort", stop);
      settle(value);
    };
    const stop = () => finish(reject, abortError());
    events.addEventListener("progress", ({ data }) => {
      clearTimeout(held);
      onProgress(JSON.parse(data));
    });
    events.addEventListener("end", ({ data }) => {
      const job = JSON.parse(data);
      onProgress(job);
      finish(resolve, job);
    });
    // A proxy that holds events back, or a service that is gone: asking tells more.
    events.addEventListener("error", () => finish(resolve, null));
    signal?.addEventListener("abort", stop, { once: true });
    if (signal?.aborted) stop();
  });
}

async function poll(id, { onProgress, onTrouble, signal }) {
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

export function sleep(milliseconds, signal) {
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
    if (signal?.aborted) stop();
  });
}
