// Line drawings for buttons, on a square of 20.

const PATHS = {
  bin: "M3.5 5.5h13M8 5.5v-2h4v2M5.5 5.5l.7 11h7.6l.7-11M8.5 8.5v5M11.5 8.5v5",
  camera: "M3 6.5h3.2l1.3-2h5l1.3 2H17v9.5H3zM10 14a2.9 2.9 0 1 0 0-5.8 2.9 2.9 0 0 0 0 5.8",
  check: "M4 10.5l4 4 8-9",
  close: "M5 5l10 10M15 5L5 15",
  crop: "M6 2.5V14h11.5M2.5 6H14v11.5",
  folder: "M2.5 5h5l1.5 2h8.5v8.5h-15z",
  left: "M12.5 4.5L7 10l5.5 5.5",
  less: "M4.5 10h11",
  link: "M8.5 11.5l3-3M9 6l1.8-1.8a3.5 3.5 0 0 1 5 5L14 11M11 14l-1.8 1.8a3.5 3.5 0 0 1-5-5L6 9",
  moon: "M16.5 12A7 7 0 0 1 8 3.5 7 7 0 1 0 16.5 12z",
  more: "M10 4.5v11M4.5 10h11",
  photo: "M3 4h14v12H3zM3 13.5l4-4 3.5 3.5 2.5-2.5 4 4M12.7 8.2a1 1 0 1 0 0-2 1 1 0 0 0 0 2",
  right: "M7.5 4.5L13 10l-5.5 5.5",
  search: "M8.8 14.2a5.4 5.4 0 1 0 0-10.8 5.4 5.4 0 0 0 0 10.8M12.8 12.8l4.2 4.2",
  sun: "M10 13.5a3.5 3.5 0 1 0 0-7 3.5 3.5 0 0 0 0 7M10 1.8v2M10 16.2v2M1.8 10h2M16.2 10h2M4.2 4.2l1.4 1.4M14.4 14.4l1.4 1.4M15.8 4.2l-1.4 1.4M5.6 14.4l-1.4 1.4",
  upload: "M10 13V3.5M6 7l4-4 4 4M3.5 12.5v4h13v-4",
  window: "M8 4H4v12h12v-4M11 3.5h5.5V9M16 4l-7 7",
};

const SVG = "http://www.w3.org/2000/svg";

/** A drawing that says nothing by itself: its button needs a name. */
export function icon(name) {
  const drawing = document.createElementNS(SVG, "svg");
  drawing.setAttribute("viewBox", "0 0 20 20");
  drawing.setAttribute("aria-hidden", "true");
  drawing.classList.add("icon");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", PATHS[name]);
  drawing.append(path);
  return drawing;
}

/** Puts drawings before the words of what names one in `data-icon`. */
export function drawIcons(root = document) {
  for (const place of root.querySelectorAll("[data-icon]")) place.prepend(icon(place.dataset.icon));
}
