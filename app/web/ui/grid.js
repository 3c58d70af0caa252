// A grid of photos that is one stop for Tab; arrow keys move within it.

const STEPS = { ArrowLeft: -1, ArrowRight: 1 };
const ROWS = { ArrowUp: -1, ArrowDown: 1 };

/**
 * Cards are children of `list`; what is focused in each is its `.card-photo`, and the buttons in
 * `.card-tools` can be reached from there. Call `refresh` after cards came, went or were hidden.
 */
export function makeGrid(list) {
  const visible = () => [...list.children].filter((card) => !card.hidden);
  let active = null;

  function refresh() {
    const cards = visible();
    activate(cards.includes(active) ? active : (cards[0] ?? null));
  }

  function activate(card) {
    active = card;
    for (const other of list.children) {
      const stops = other.querySelectorAll("button, input");
      for (const stop of stops) stop.tabIndex = other === card ? 0 : -1;
    }
  }

  function focus(card) {
    if (!card) return;
    activate(card);
    card.querySelector(".card-photo").focus();
    card.scrollIntoView({ block: "nearest" });
  }

  list.addEventListener("focusin", ({ target }) => {
    const card = target.closest(".card");
    if (card && card !== active) activate(card);
  });
  list.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || !active) return;
    const next = neighbour(visible(), active, event.key);
    if (next === undefined) return;
    event.preventDefault();
    focus(next);
  });

  return { refresh, focus };
}

/** The card that `key` leads to from `card`, null at the border; undefined for other keys. */
function neighbour(cards, card, key) {
  const at = cards.indexOf(card);
  if (key === "Home") return cards[0];
  if (key === "End") return cards.at(-1);
  if (key in STEPS) return cards[at + STEPS[key]] ?? null;
  return key in ROWS ? inNextRow(cards, at, ROWS[key]) : undefined;
}

function inNextRow(cards, at, step) {
  const middle = (card) => card.offsetLeft + card.offsetWidth / 2;
  let best = null;
  let row = null;
  for (let i = at + step; cards[i]; i += step) {
    const top = cards[i].offsetTop;
    if (top === cards[at].offsetTop) continue;
    row ??= top;
    if (top !== row) break;
    const away = Math.abs(middle(cards[i]) - middle(cards[at]));
    if (!best || away < best.away) best = { card: cards[i], away };
  }
  return best?.card ?? null;
}
