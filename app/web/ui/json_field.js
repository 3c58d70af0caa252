// A field whose text is a JSON object, with what is wrong said below it.

import { showText } from "./dom.js";

/** `read()` is the object, null for an empty field, undefined after showing what is wrong. */
export function makeJsonField(field, problem) {
  function complain(text) {
    showText(problem, text);
    field.setAttribute("aria-invalid", String(Boolean(text)));
  }

  function read() {
    complain("");
    const text = field.value.trim();
    if (!text) return null;
    let value;
    try {
      value = JSON.parse(text);
    } catch (error) {
      complain(`This is not JSON yet: ${wordsOf(error)}`);
      return undefined;
    }
    if (value !== null && typeof value === "object" && !Array.isArray(value)) return value;
    complain('It has to be an object in braces, such as {"album": "2024"}.');
    return undefined;
  }

  return { read, complain };
}

/** Browsers word it differently; most name the place. */
const wordsOf = (error) => `${error.message.replace(/^JSON\.parse: /, "")}.`.replace(/\.\.$/, ".");
