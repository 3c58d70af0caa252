// The button between light and dark.

import { byId } from "../ui/dom.js";
import { icon } from "../ui/icons.js";

const KEY = "cooc:theme";
const system = matchMedia("(prefers-color-scheme: dark)");

export function makeTheme() {
  const root = document.documentElement;
  const button = byId("theme");

  const current = () => root.dataset.theme ?? (system.matches ? "dark" : "light");

  function show() {
    const other = current() === "dark" ? "light" : "dark";
    button.replaceChildren(icon(other === "dark" ? "moon" : "sun"));
    button.title = `Use the ${other} theme`;
    button.setAttribute("aria-label", button.title);
  }

  button.addEventListener("click", () => {
    root.dataset.theme = current() === "dark" ? "light" : "dark";
    try {
      localStorage.setItem(KEY, root.dataset.theme);
    } catch {
      // It holds until the page is left.
    }
    show();
  });
  system.addEventListener("change", show);
  show();
}
