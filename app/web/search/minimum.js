// The slider that hides what is less like the query: by probability or by score, at once.

import { byId } from "../ui/dom.js";
import { isKnown } from "../ui/matches.js";
import { percent } from "../ui/words.js";

/** Calls `onMoved()` while it moves and `onSet()` when it is let go. */
export function makeMinimum({ onMoved, onSet }) {
  const slider = byId("minimum");
  const by = byId("minimum-by");
  const probable = by.querySelector("option[value=p]");
  /** Whether the visitor, or the address, has said which of the two. */
  let chosen = false;

  const value = () => Number(slider.value);
  const words = () => {
    if (!value()) return "any";
    return by.value === "p" ? percent(value()) : value().toFixed(2);
  };

  function show() {
    byId("minimum-value").textContent = words();
    slider.setAttribute("aria-valuetext", words());
  }

  slider.addEventListener("input", () => {
    show();
    onMoved();
  });
  slider.addEventListener("change", onSet);
  function measureBy(scale) {
    if (by.value !== scale) slider.value = "0"; // the two scales have nothing in common
    by.value = scale;
  }

  by.addEventListener("change", () => {
    chosen = true;
    slider.value = "0";
    show();
    onMoved();
    onSet();
  });

  return {
    words,
    isSet: () => value() > 0,
    /** Its lowest position lets negative scores through as well. */
    passes: (result) => !value() || measure(result, by.value) >= value(),
    best: (results) => {
      const best = Math.max(...results.map((result) => measure(result, by.value)));
      return by.value === "p" ? percent(best) : best.toFixed(3);
    },
    /** Probabilities are there from a build on. */
    offer(results) {
      if (!results.length) return;
      const known = results.some(({ p_same_origin: p }) => isKnown(p));
      probable.disabled = !known;
      if (!known) measureBy("score");
      else if (!chosen && !value()) measureBy("p");
      show();
    },
    place: () => (value() ? `${by.value === "p" ? "p" : ""}${value().toFixed(2)}` : ""),
    restore(text) {
      chosen = Boolean(text);
      by.value = text && !text.startsWith("p") ? "score" : "p";
      slider.value = String(Number(text.replace(/^p/, "")) || 0);
      probable.disabled = false;
      show();
    },
  };
}

const measure = ({ score, p_same_origin: p }, by) => (by === "p" ? (p ?? 0) : score);
