// What is searched with, as it is shown beside the results.

import { originalPath, thumbnailPath } from "../api/images.js";
import { byId, create } from "../ui/dom.js";
import { icon } from "../ui/icons.js";
import { isSingle } from "./examples.js";

/**
 * `onDrop(example)` is called for an example that is taken out. `show(query, keepsOriginals)`
 * shows the query; only a photo that is at hand in full can be searched by a part.
 */
export function makeQueryPanel({ onDrop, region }) {
  const photo = byId("query-photo");

  function show(query, keepsOriginals) {
    const [main] = query.positives;
    const single = isSingle(query);
    showPhoto(main, keepsOriginals);
    byId("query-name").textContent = main.name;
    byId("query-name").title = main.name;
    const dividable = single && (main.kind === "file" || (main.kind === "id" && keepsOriginals));
    byId("region-toggle").hidden = !dividable;
    region.show(dividable || main.region ? main.region : null);
    byId("examples").hidden = single;
    fill("like", query.positives);
    fill("unlike", query.negatives);
  }

  function showPhoto({ kind, id, name, preview }, keepsOriginals) {
    const sources =
      kind === "id"
        ? [...(keepsOriginals ? [originalPath(id)] : []), thumbnailPath(id)]
        : [preview];
    photo.alt = `Your query: ${name}`;
    tryInTurn(photo, sources.filter(Boolean), (shown) => {
      photo.hidden = !shown;
      byId("query-missing").hidden = shown;
      byId("query-missing").textContent =
        kind === "url"
          ? "A photo from elsewhere: the service fetches it, this page does not."
          : "This browser cannot show such a file; the service may still read it.";
    });
  }

  function fill(side, examples) {
    byId(`${side}-title`).hidden = byId(`${side}-list`).hidden = !examples.length;
    // The last photo to be like stays: a search needs one.
    const fixed = side === "like" && examples.length === 1;
    byId(`${side}-list`).replaceChildren(...examples.map((example) => chip(example, fixed)));
  }

  function chip(example, fixed) {
    const picture = example.preview
      ? create("img", {
          src: example.preview,
          alt: example.name,
          title: example.name,
          draggable: false,
        })
      : create("span", { className: "chip-name", text: example.name });
    const item = create("li", { className: "chip" }, picture);
    if (fixed) return item;
    const button = create(
      "button",
      {
        className: "chip-remove",
        type: "button",
        title: "Leave this out",
        attributes: { "aria-label": `Leave out ${example.name}` },
      },
      icon("close"),
    );
    button.addEventListener("click", () => onDrop(example));
    item.append(button);
    return item;
  }

  return { show };
}

/** Shows the first of `sources` that is a picture; `onSettled(shown)` hears whether there is one. */
export function tryInTurn(image, sources, onSettled) {
  const [source, ...others] = sources;
  image.onload = () => onSettled(true, source);
  image.onerror = () => tryInTurn(image, others, onSettled);
  if (source) return void (image.src = source);
  image.onload = image.onerror = null;
  image.removeAttribute("src");
  onSettled(false, null);
}
