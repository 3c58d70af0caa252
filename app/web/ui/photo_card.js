// One photo of a grid, in the shape that it has.

import { thumbnailPath } from "../api/images.js";
import { create } from "./dom.js";
import { icon } from "./icons.js";

/** Panoramas and pillars get a frame of these shapes, and are shown within it as a whole. */
const NARROWEST = 0.6;
const WIDEST = 2.6;

/**
 * A list item. `caption` are elements below the photo, `tools` buttons upon it; `label` is what
 * the photo is called by screen readers; `onOpen(card)` is called when it is clicked.
 */
export function photoCard({ id, width, height, label, caption, tools = [], onOpen }) {
  const card = create("li", { className: "card", attributes: { "data-id": id } });
  const ratio = Math.min(WIDEST, Math.max(NARROWEST, width / height));
  card.style.setProperty("--ratio", ratio.toFixed(4));
  const picture = create("img", {
    src: thumbnailPath(id),
    alt: "",
    loading: "lazy",
    decoding: "async",
    draggable: false,
    width,
    height,
  });
  picture.addEventListener("error", () => card.classList.add("card-missing"));
  const photo = create(
    "button",
    { className: "card-photo", type: "button", title: id, attributes: { "aria-label": label } },
    picture,
  );
  photo.addEventListener("click", () => onOpen(card));
  card.append(
    photo,
    create("div", { className: "card-tools" }, ...tools),
    create("div", { className: "card-caption" }, ...caption),
  );
  return card;
}

/** The end of an id tells more than its folders, where there is little room. */
export const fileName = (id) => id.split("/").at(-1) || id;

/** A small button upon a photo. */
export function tool(name, label, onClick) {
  const button = create(
    "button",
    { className: "card-tool", type: "button", title: label, attributes: { "aria-label": label } },
    icon(name),
  );
  button.addEventListener("click", onClick);
  return button;
}
