// The part of the query that is searched: a box dragged on the photo, or set by its numbers.

import { byId } from "../ui/dom.js";

const FIELDS = ["x", "y", "width", "height"];
const FIRST = { x: 0.2, y: 0.2, width: 0.6, height: 0.6 };
/** Smaller boxes, as parts of the photo, are slips of the hand. */
const LEAST = 0.02;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

/** Calls `onChanged(region)` when another part is chosen; null is the whole photo. */
export function makeRegion({ onChanged }) {
  const photo = byId("query-photo");
  const box = byId("region");
  const toggle = byId("region-toggle");
  const fields = byId("region-fields");
  let region = null;
  let settling = 0;

  function show(next) {
    clearTimeout(settling);
    settling = 0;
    region = next;
    box.hidden = fields.hidden = !region;
    toggle.setAttribute("aria-pressed", String(Boolean(region)));
    if (!region) return;
    const { x, y, width, height } = region;
    for (const [name, value] of Object.entries({ left: x, top: y, width, height })) {
      box.style.setProperty(name, `${100 * value}%`);
    }
    for (const name of FIELDS)
      byId(`region-${name}`).value = String(Math.round(100 * region[name]));
  }

  function choose(next) {
    show(next);
    onChanged(region);
  }

  // --- by the pointer -----------------------------------------------------------------------

  /** Where a pointer is on the photo, as parts of its sides. */
  function placeOf({ clientX, clientY }) {
    const { left, top, width, height } = photo.getBoundingClientRect();
    return [clamp((clientX - left) / width, 0, 1), clamp((clientY - top) / height, 0, 1)];
  }

  /** What a drag from `start` does with the box there is: moves it, resizes it, draws another. */
  function gestureAt(target, start) {
    const old = region;
    // By how far it is drawn, not to where: a finger takes hold of it beside its corner.
    if (target.closest(".region-handle")) {
      const reach = [old.x + old.width - start[0], old.y + old.height - start[1]];
      return (to) =>
        spanned(
          [old.x, old.y],
          to.map((value, at) => clamp(value + reach[at], 0, 1)),
        );
    }
    if (target.closest(".region")) return (to) => moved(old, to[0] - start[0], to[1] - start[1]);
    return (to) => spanned(start, to);
  }

  byId("query-frame").addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || photo.hidden || toggle.hidden || toggle.disabled) return;
    // On touch screens a swipe scrolls the page, until a part is being chosen.
    if (event.pointerType === "touch" && !region) return;
    const frame = event.currentTarget;
    const start = placeOf(event);
    const gesture = gestureAt(event.target, start);
    const before = region;
    let dragged = false;
    event.preventDefault();
    frame.setPointerCapture(event.pointerId);
    const move = (next) => {
      if (next.pointerId !== event.pointerId) return;
      const drawn = gesture(placeOf(next));
      if (drawn.width < LEAST || drawn.height < LEAST) return;
      dragged = true;
      show(drawn);
    };
    const end = (next) => {
      if (next.pointerId !== event.pointerId) return;
      frame.removeEventListener("pointermove", move);
      frame.removeEventListener("pointerup", end);
      frame.removeEventListener("pointercancel", end);
      if (next.type === "pointercancel") show(before);
      else if (dragged) onChanged(region);
    };
    frame.addEventListener("pointermove", move);
    frame.addEventListener("pointerup", end);
    frame.addEventListener("pointercancel", end);
  });

  // --- by the keyboard ----------------------------------------------------------------------

  box.tabIndex = 0;
  box.setAttribute("role", "group");
  box.setAttribute(
    "aria-label",
    "The part that is searched. Arrow keys move it, with Shift they resize it.",
  );
  box.addEventListener("keydown", (event) => {
    const arrow = ARROWS[event.key];
    // Alt and an arrow go back and forward.
    if (!arrow || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    const [across, down] = arrow.map((step) => step * 0.02);
    const corner = [region.x + region.width + across, region.y + region.height + down];
    const next = event.shiftKey
      ? spanned(
          [region.x, region.y],
          corner.map((value) => clamp(value, 0, 1)),
        )
      : moved(region, across, down);
    if (next.width < LEAST || next.height < LEAST) return;
    show(next);
    // One search for a row of key strokes.
    settling = setTimeout(settle, 400);
  });
  box.addEventListener("blur", () => settling && settle());

  function settle() {
    clearTimeout(settling);
    settling = 0;
    onChanged(region);
  }

  fields.addEventListener("change", () => {
    const [x, y, width, height] = FIELDS.map((name) => Number(byId(`region-${name}`).value) / 100);
    const left = clamp(x, 0, 1 - LEAST);
    const top = clamp(y, 0, 1 - LEAST);
    choose({
      x: left,
      y: top,
      width: clamp(width, LEAST, 1 - left),
      height: clamp(height, LEAST, 1 - top),
    });
  });
  toggle.addEventListener("click", () => {
    choose(region ? null : FIRST);
    if (region) box.focus();
  });

  return { show };
}

const spanned = ([x, y], [toX, toY]) => ({
  x: Math.min(x, toX),
  y: Math.min(y, toY),
  width: Math.abs(toX - x),
  height: Math.abs(toY - y),
});

const moved = (region, across, down) => ({
  ...region,
  x: clamp(region.x + across, 0, 1 - region.width),
  y: clamp(region.y + down, 0, 1 - region.height),
});
