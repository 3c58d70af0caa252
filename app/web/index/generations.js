// The generations that are kept, and going back to one.

import { rollbackTo } from "../api/index.js";
import { button, byId, create } from "../ui/dom.js";
import { count, number } from "../ui/words.js";

/** `operate(task)` runs one operation at a time and shows what it returns, or why it failed. */
export function makeGenerations({ operate }) {
  function show({ generations, generation }) {
    const kept = [...new Set(generations)].filter((one) => one > 0).sort((a, b) => b - a);
    byId("generations-hint").textContent = kept.length
      ? "Each build makes one. Going back takes no time, and loses no photos."
      : "None yet: each build makes one, and it can be gone back to.";
    byId("generation-list").replaceChildren(...kept.map((one) => row(one, one === generation)));
  }

  function row(number_, live) {
    const name = create("span", { className: "row-name", text: `Generation ${number(number_)}` });
    const end = live
      ? create("span", { className: "badge badge-exact", text: "live" })
      : button("Go back to it", () => operate(() => goBack(number_)), {
          className: "button button-small",
        });
    return create("li", { className: "row" }, name, end);
  }

  return { show };
}

async function goBack(generation) {
  const loaded = await rollbackTo(generation);
  return `Generation ${number(loaded.generation)} is live again, with ${count(loaded.count, "photo")}.`;
}
