// Which parts of a photo made a score, drawn over it and in words.

/** Stops of the colours from little to much: red, green, blue. */
const RAMP = [
  [35, 12, 76],
  [137, 34, 106],
  [229, 92, 48],
  [252, 176, 40],
  [252, 255, 190],
];
const FAINTEST = 0.25;
const STRONGEST = 0.8;

/** @typedef {{rows: number, columns: number, parts: number[][]}} Grid */

/** Draws `grid` on `canvas`, a pixel for each cell: the browser smooths it when it is scaled. */
export function drawHeat(canvas, { rows, columns, parts }) {
  canvas.width = columns;
  canvas.height = rows;
  const context = canvas.getContext("2d");
  const picture = context.createImageData(columns, rows);
  // What takes away from the score is as good as nothing here.
  const most = Math.max(...parts.flat(), Number.EPSILON);
  parts.flat().forEach((part, at) => {
    const share = Math.max(0, part) / most;
    const alpha = 255 * (FAINTEST + (STRONGEST - FAINTEST) * share);
    picture.data.set([...colourOf(share), alpha], 4 * at);
  });
  context.putImageData(picture, 0, 0);
}

function colourOf(share) {
  const at = share * (RAMP.length - 1);
  const below = Math.min(Math.floor(at), RAMP.length - 2);
  return RAMP[below].map((value, i) => value + (RAMP[below + 1][i] - value) * (at - below));
}

const ACROSS = ["left", "", "right"];
const DOWN = ["upper", "", "lower"];
/** From this much more than its share on, a third of a photo stands out. */
const STANDS_OUT = 1.25;

/** Where most of the score comes from: "upper left", "right", "whole". */
export function placeOf({ rows, columns, parts }) {
  const thirds = (length, at) => Math.min(2, Math.floor((3 * at) / length));
  const sums = { across: [0, 0, 0], down: [0, 0, 0] };
  const sizes = { across: [0, 0, 0], down: [0, 0, 0] };
  parts.forEach((row, y) =>
    row.forEach((part, x) => {
      const value = Math.max(0, part);
      sums.across[thirds(columns, x)] += value;
      sums.down[thirds(rows, y)] += value;
      sizes.across[thirds(columns, x)] += 1;
      sizes.down[thirds(rows, y)] += 1;
    }),
  );
  const across = standout(sums.across, sizes.across);
  const down = standout(sums.down, sizes.down);
  if (across === null && down === null) return "whole";
  const words = [DOWN[down ?? 1], ACROSS[across ?? 1]].filter(Boolean);
  return words.length ? words.join(" ") : "middle";
}

/** The third that has much more than its share, or null. */
function standout(sums, sizes) {
  const total = sums.reduce((sum, value) => sum + value, 0);
  const cells = sizes.reduce((sum, value) => sum + value, 0);
  const excess = sums.map((sum, i) => (sizes[i] && total ? sum / total / (sizes[i] / cells) : 0));
  const best = excess.indexOf(Math.max(...excess));
  return excess[best] >= STANDS_OUT ? best : null;
}
