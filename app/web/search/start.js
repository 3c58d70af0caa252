// Before the first search: where to begin.

import { getImages, thumbnailPath } from "../api/images.js";
import { byId, create } from "../ui/dom.js";

/** So many of so many: a collection often begins with photos of one thing. */
const SAMPLES = 16;
const AMONG = 160;

/** `refresh()` shows some of the collection; `onSearch(id)` is called for the one that is taken. */
export function makeStart({ onSearch }) {
  async function refresh() {
    let images;
    try {
      ({ images } = await getImages({ limit: AMONG }));
    } catch {
      return; // an offer only: searching works without it
    }
    byId("samples").hidden = !images.length;
    byId("start-empty").hidden = images.length > 0;
    const step = Math.max(1, Math.floor(images.length / SAMPLES));
    const shown = images.filter((_, at) => at % step === 0).slice(0, SAMPLES);
    byId("sample-list").replaceChildren(...shown.map((image) => create("li", {}, sample(image))));
  }

  function sample({ id, width, height }) {
    const picture = create("img", {
      src: thumbnailPath(id),
      alt: "",
      decoding: "async",
      draggable: false,
      width,
      height,
    });
    const button = create(
      "button",
      {
        className: "sample",
        type: "button",
        title: id,
        attributes: { "aria-label": `Search with ${id}` },
      },
      picture,
    );
    button.addEventListener("click", () => onSearch(id));
    return button;
  }

  return { refresh };
}
