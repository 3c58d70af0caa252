// The parts of the page, of which one is shown.

import { byId } from "../ui/dom.js";
import { may } from "./session.js";

const TITLES = { search: "Search", collection: "Collection", add: "Add photos", index: "Index" };
const NEEDS = { search: "search", collection: "search", add: "write", index: "admin" };
const NAME = "Co-occurrence image search";

/**
 * `parts` are objects with `enter()` and `leave()`, both optional, by the name of their view;
 * `onChosen(name)` is called when the visitor asks for one.
 */
export function makeViews(parts, { onChosen }) {
  let shown = null;

  /** Shows a view, or the search for those who may not see it. Returns what is shown. */
  function show(wanted, { focus = false } = {}) {
    const name = may(NEEDS[wanted]) ? wanted : "search";
    const changed = name !== shown;
    if (changed) parts[shown]?.leave?.();
    shown = name;
    for (const other of Object.keys(TITLES)) byId(`view-${other}`).hidden = other !== name;
    for (const link of byId("nav").children) {
      if (link.dataset.view === name) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    document.title = name === "search" ? NAME : `${TITLES[name]} – ${NAME}`;
    if (changed) parts[name]?.enter?.();
    if (focus) {
      scrollTo({ top: 0 });
      byId(`${name}-title`).focus({ preventScroll: true });
    }
    return name;
  }

  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-view], #home");
    // With a key held, links open elsewhere.
    if (!link || event.button || event.metaKey || event.ctrlKey || event.shiftKey) return;
    event.preventDefault();
    onChosen(link.dataset.view ?? "home");
  });

  /** Shows anew what is shown, after what the visitor may see has changed. */
  function again() {
    if (may(NEEDS[shown])) parts[shown]?.enter?.();
    else show("search");
  }

  return { show, again, shown: () => shown };
}
