// Searching: by one file as a form, by everything else as JSON.

import { canRead } from "./files.js";
import { request, send, Unreachable } from "./http.js";

/**
 * An image to be like, or unlike.
 * @typedef {object} Example
 * @property {"file" | "id" | "url"} kind
 * @property {string} name for people
 * @property {string | null} preview address of a picture of it
 * @property {File} [file]
 * @property {string} [id]
 * @property {string} [url]
 * @property {Region | null} [region] the part that is meant
 *
 * @typedef {{x: number, y: number, width: number, height: number}} Region parts of the sides
 * @typedef {{positives: Example[], negatives: Example[]}} Query
 */

/** Asks with `query`; `options` are the other fields of a search, as the API names them. */
export async function search(query, options, signal) {
  const [first] = query.positives;
  const alone = query.positives.length === 1 && !query.negatives.length;
  if (alone && first.kind === "file") return byForm(first, options, signal);
  const examples = async (list) => Promise.all(list.map(exampleJson));
  const content = alone
    ? { query: sourceOf(first), ...regionOf(first) }
    : {
        query: {
          positives: await examples(query.positives),
          negatives: await examples(query.negatives),
        },
      };
  // A stored photo would find itself first, and it is on show as the query already.
  const stored = query.positives.some(({ kind }) => kind === "id");
  return send("POST", "search", { ...content, ...options, exclude_self: stored }, { signal });
}

async function byForm({ file, name: called, ...example }, options, signal) {
  const form = new FormData();
  for (const [name, value] of Object.entries({ ...options, ...regionOf(example) })) {
    form.append(name, formText(name, value));
  }
  form.append("image", file, file.name || "pasted");
  try {
    return await request("search", { method: "POST", body: form, signal });
  } catch (error) {
    if (!(error instanceof Unreachable) || (await canRead(file))) throw error;
    throw new Error(`The photo “${called}” cannot be read any more. Choose it again.`);
  }
}

function formText(name, value) {
  if (name === "include") return value.join(",");
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

const regionOf = ({ region }) => (region ? { region: { ...region, unit: "norm" } } : {});

const sourceOf = ({ kind, id, url }) => (kind === "id" ? { id } : { url });

async function exampleJson(example) {
  const source =
    example.kind === "file" ? { image_base64: await base64(example.file) } : sourceOf(example);
  return { ...source, ...regionOf(example) };
}

function base64(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.addEventListener("load", () =>
      resolve(reader.result.slice(reader.result.indexOf(",") + 1)),
    );
    reader.addEventListener("error", () =>
      reject(new Error(`${file.name} cannot be read any more.`)),
    );
    reader.readAsDataURL(file);
  });
}
