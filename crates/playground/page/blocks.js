// Draws the blocks of a memory as a strip of rows, each block as long as it is large.

import { colourOf, make, narrow, size } from "./dom.js";

/** Returns the number of units in a row. */
export function columnsFor(units) {
  if (units <= 16) return Math.max(units, 1);
  if (narrow.matches) return units <= 256 ? 16 : 32;
  return units <= 128 ? 32 : 64;
}

/** Cuts a range of units into pieces that are rectangles of rows. */
function rectangles(start, units, columns) {
  const pieces = [];
  let at = start;
  let left = units;
  while (left > 0) {
    const column = at % columns;
    const rows = column === 0 ? Math.floor(left / columns) : 0;
    const length = rows > 0 ? rows * columns : Math.min(left, columns - column);
    pieces.push({ row: Math.floor(at / columns), column, rows: Math.max(rows, 1), span: rows > 0 ? columns : length });
    at += length;
    left -= length;
  }
  return pieces;
}

function place({ row, column, rows, span }) {
  return `grid-area:${row + 1}/${column + 1}/span ${rows}/span ${span}`;
}

/** Says in words what a block is. */
function label([start, units, state, name, asked], unit) {
  const where = `${size(units * unit)} at ${size(start * unit)}`;
  if (state === "taken") return asked ? `${name} ${where}, asked for ${asked}` : `${name} ${where}`;
  return `${{ free: "free", cached: "in the CPU's slot" }[state] ?? "freed, but deferred"}, ${where}`;
}

/**
 * Draws a strip. With `act`, blocks are buttons: it is called with each block that is clicked, and `hint` says what it does.
 */
export function strip({ units, unit, blocks, marks = [], changed = [] }, { act = null, hint = () => "" } = {}) {
  const columns = columnsFor(units);
  const rows = Math.ceil(units / columns);
  const grid = make("div", { class: `strip${rows > 1 ? " small" : ""}${rows > 16 ? " many" : ""}`, style: `--columns:${columns}` });
  const isChanged = (start, length) => changed.some(([at, count]) => at < start + length && start < at + count);
  for (const block of blocks) {
    const [start, length, state, name] = block;
    const text = label(block, unit);
    rectangles(start, length, columns).forEach((piece, index) => {
      const isWide = piece.span / columns >= (narrow.matches ? 0.06 : 0.028);
      const classes = ["block", state, state === "taken" ? colourOf(name) : "", isChanged(start, length) ? "changed" : ""];
      const content = [
        isWide && state === "taken" ? make("b", {}, name) : null,
        " ",
        piece.span / columns >= 0.06 ? make("small", {}, size(length * unit)) : null,
      ];
      const isButton = act && index === 0;
      grid.append(make(isButton ? "button" : "div", {
        class: classes.join(" "),
        style: place(piece),
        title: text,
        type: isButton ? "button" : null,
        "data-at": isButton ? start : null,
        "aria-label": isButton ? `${text}${hint(block)}` : null,
        "aria-hidden": isButton || !act ? null : "true",
        onclick: act ? () => act(block) : null,
      }, ...content));
    });
  }
  for (const [start, length, name] of marks) {
    for (const piece of rectangles(start, length, columns)) {
      const text = name === "-" ? "free" : name;
      grid.append(make("div", { class: "mark", style: place(piece), title: `claimed: ${text}` }, make("b", {}, name === "-" ? "" : name)));
    }
  }
  return make("div", { class: "memory" }, grid, axis(units, unit, columns));
}

/** Draws the offsets below a strip of one row, or says how much a row is. */
function axis(units, unit, columns) {
  if (units > columns) return make("p", { class: "axis-note" }, `a row is ${size(columns * unit)}, a column ${size(unit)}`);
  const ticks = [0, 1, 2, 3, 4].map((quarter) => (units * quarter) / 4).filter(Number.isInteger);
  return make("div", { class: "axis", "aria-hidden": "true" },
    ...ticks.map((at) => make("span", { style: `left:${(100 * at) / units}%` }, size(at * unit))));
}
