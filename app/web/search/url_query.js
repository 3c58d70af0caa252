// A photo from elsewhere, which the service fetches.

import { byId, showText } from "../ui/dom.js";

/** Calls `onUrl(url)`; `allow(whether)` offers it or not. */
export function makeUrlQuery({ onUrl }) {
  const dialog = byId("url-dialog");
  const field = byId("url");
  const problem = byId("url-problem");

  byId("url-open").addEventListener("click", () => {
    showText(problem, "");
    field.removeAttribute("aria-invalid");
    dialog.showModal();
    field.select();
  });
  byId("url-cancel").addEventListener("click", () => dialog.close());
  byId("url-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const url = webAddress(field.value);
    showText(problem, url ? "" : "That is no URL: it has to begin with http:// or https://.");
    field.setAttribute("aria-invalid", String(!url));
    if (!url) return field.focus();
    dialog.close();
    onUrl(url);
  });

  return { allow: (whether) => (byId("url-open").hidden = !whether) };
}

/** `text` if it is the address of something on the web, else null. */
export function webAddress(text) {
  const trimmed = text.trim();
  try {
    return /^https?:\/\//i.test(trimmed) && new URL(trimmed).hostname ? trimmed : null;
  } catch {
    return null;
  }
}
