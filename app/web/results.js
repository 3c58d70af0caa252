// One search result as a card.

import { create } from "./ui.js";

const BADGES = {
  exact: { text: "exact", title: "The same file, byte for byte" },
  near: { text: "near", title: "Nearly the same picture: a copy, crop or other size of it" },
  similar: { text: "similar", title: "Something alike" },
};

/** A list item for `result`; `onSearch` and `onRemove` are called with the result and the card. */
export function resultCard(result, { onSearch, onRemove }) {
  const card = create("li", {
    className: "card",
    attributes: {
      "data-id": result.id,
      "data-score": String(result.score),
      "data-match": result.match_type,
    },
  });
  card.append(
    thumbnail(result, () => onSearch(result, card)),
    facts(result),
    actions(result, () => onSearch(result, card), () => onRemove(result, card)),
  );
  return card;
}

function thumbnail(result, onClick) {
  const image = create("img", {
    src: result.thumbnail_url,
    alt: "",
    loading: "lazy",
    decoding: "async",
    // The sizes give the box its shape before the photo is there.
    width: result.width,
    height: result.height,
  });
  image.addEventListener("error", () => image.closest(".thumb")?.classList.add("thumb-missing"));
  // The button below does the same with words: one stop for the keyboard is enough.
  const button = create(
    "button",
    {
      className: "thumb",
      type: "button",
      tabIndex: -1,
      title: "Search with this photo",
      attributes: { "aria-hidden": "true" },
    },
    image,
  );
  button.addEventListener("click", onClick);
  return button;
}

function facts(result) {
  const badge = BADGES[result.match_type] ?? { text: result.match_type, title: "" };
  const bar = create("span", { className: "bar", attributes: { "aria-hidden": "true" } });
  bar.style.setProperty("--fill", String(Math.min(1, Math.max(0, result.score))));
  return create(
    "div",
    { className: "card-facts" },
    create(
      "p",
      { className: "card-line" },
      create("span", { className: `badge badge-${result.match_type}`, ...badge }),
      create("span", { className: "visually-hidden", text: ", score " }),
      create("span", { className: "score", text: result.score.toFixed(3) }),
    ),
    bar,
    create("p", { className: "card-id", text: result.id, title: result.id }),
  );
}

function actions(result, onSearch, onRemove) {
  const search = create("button", {
    className: "card-button card-search",
    type: "button",
    text: "Search with this",
    attributes: { "aria-label": `Search with this: ${result.id}` },
  });
  const remove = create(
    "button",
    {
      className: "card-button card-remove",
      type: "button",
      title: "Remove from the collection",
      attributes: { "aria-label": `Remove ${result.id}` },
    },
    bin(),
  );
  search.addEventListener("click", onSearch);
  remove.addEventListener("click", onRemove);
  return create("div", { className: "card-actions" }, search, remove);
}

function bin() {
  const names = "http://www.w3.org/2000/svg";
  const drawing = document.createElementNS(names, "svg");
  drawing.setAttribute("viewBox", "0 0 20 20");
  drawing.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(names, "path");
  path.setAttribute("d", "M3.5 5.5h13M8 5.5v-2h4v2M5.5 5.5l.7 11h7.6l.7-11M8.5 8.5v5M11.5 8.5v5");
  drawing.append(path);
  return drawing;
}
