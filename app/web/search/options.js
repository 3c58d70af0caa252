// Options that change what is asked: query expansion and the filter on metadata.

import { byId, create } from "../ui/dom.js";
import { makeJsonField } from "../ui/json_field.js";

const EXAMPLES = [
  { year: 2024 },
  { field: "year", gte: 2020, lt: 2024 },
  { and: [{ album: "Lisbon" }, { not: { field: "tags", in: ["draft"] } }] },
  { field: "caption", exists: true },
];
const MOST_OWN = 3;

/** Calls `onChanged()` when the same query has to be asked again. */
export function makeOptions({ onChanged }) {
  const field = byId("filter");
  const json = makeJsonField(field, byId("filter-problem"));
  /** The filter in force, which is not always what is being typed. */
  let filter = null;

  function apply() {
    const next = json.read();
    if (next === undefined) return field.focus();
    if (JSON.stringify(next) === JSON.stringify(filter)) return;
    filter = next;
    onChanged();
  }

  function use(next) {
    field.value = next ? JSON.stringify(next) : "";
    apply();
  }

  byId("search-options").addEventListener("submit", (event) => {
    event.preventDefault();
    apply();
  });
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey) return;
    event.preventDefault();
    apply();
  });
  byId("filter-clear").addEventListener("click", () => use(null));
  byId("expansion").addEventListener("change", onChanged);

  /** Offers filters that some photo of `results` passes, then others, to show what there is. */
  function suggest(results) {
    const own = ownExamples(results);
    const offered = [...own, ...EXAMPLES.slice(own.length ? 1 : 0)];
    byId("filter-examples").replaceChildren(
      ...offered.map((one) => create("li", {}, example(one))),
    );
  }

  function example(value) {
    const button = create("button", {
      className: "filter-example",
      type: "button",
      text: JSON.stringify(value),
    });
    button.addEventListener("click", () => use(value));
    return button;
  }

  suggest([]);

  return {
    /** As fields of a search. */
    fields: () => ({
      query_expansion: byId("expansion").checked ? "auto" : "none",
      ...(filter ? { filter } : {}),
    }),
    /** As parts of the address. */
    place: () => ({
      filter: filter ? JSON.stringify(filter) : "",
      expand: byId("expansion").checked,
    }),
    /** Sets both from the address, without asking; returns whether the filter is one. */
    restore({ filter: text, expand }) {
      byId("expansion").checked = expand;
      field.value = text;
      filter = json.read();
      return filter !== undefined;
    },
    complain: json.complain,
    use,
    suggest,
  };
}

function ownExamples(results) {
  const found = new Map();
  for (const { metadata } of results) {
    for (const [name, value] of Object.entries(metadata ?? {})) {
      if (["string", "number", "boolean"].includes(typeof value) && !found.has(name)) {
        found.set(name, { field: name, eq: value });
      }
    }
  }
  return [...found.values()].slice(0, MOST_OWN);
}
