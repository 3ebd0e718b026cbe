// Draws the blocks of a memory as a strip of rows, each block as long as it is large.

import { colourOf, fill, make, narrow, size } from "./dom.js";

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

/** Makes the elements of a block: a button, and more pieces where it does not fit into one rectangle. */
function pieces(block, drawer) {
  const [start, length] = block;
  return rectangles(start, length, drawer.columns).map((piece, index) => {
    const isButton = drawer.act && index === 0;
    const element = make(isButton ? "button" : "div", {
      style: place(piece),
      type: isButton ? "button" : null,
      "data-at": isButton ? start : null,
      "aria-hidden": isButton || !drawer.act ? null : "true",
    });
    element.piece = piece;
    if (drawer.act) element.addEventListener("click", () => drawer.act(element.block));
    return element;
  });
}

/** Writes into the elements of a block what may change while it lies where it is. */
function write(elements, block, isChanged, { unit, columns, act, hint }) {
  const [, length, state, name] = block;
  const text = label(block, unit);
  elements.forEach((element, index) => {
    const share = element.piece.span / columns;
    const content = [
      state === "taken" && share >= (narrow.matches ? 0.06 : 0.028) ? make("b", {}, name) : null,
      " ",
      share >= 0.06 ? make("small", {}, size(length * unit)) : null,
    ].filter((child) => child !== null);
    const classes = ["block", state, state === "taken" ? colourOf(name) : "", isChanged ? "changed" : "", content.length === 1 ? "bare" : ""];
    element.className = classes.filter((one) => one !== "").join(" ");
    element.title = text;
    if (act && index === 0) element.setAttribute("aria-label", `${text}${hint(block)}`);
    element.replaceChildren(...content);
    element.block = block;
  });
}

/** Returns what a strip keeps between two drawings, so that only what changed is drawn again. */
export function drawing() {
  return { memory: null, grid: null, size: "", blocks: new Map() };
}

/**
 * Draws a strip. With `act`, blocks are buttons: it is called with each block that is clicked, and `hint` says what it does.
 * `last` is the drawing of the same strip before: the two must mean the same by `act` and `hint`.
 */
export function strip({ units, unit, blocks, marks = [], changed = [] }, { act = null, hint = () => "", last = drawing() } = {}) {
  const columns = columnsFor(units);
  const rows = Math.ceil(units / columns);
  const measure = `${units}/${unit}/${columns}/${narrow.matches}`;
  if (last.size !== measure) {
    Object.assign(last, drawing(), { size: measure });
    last.grid = make("div", { class: `strip${rows > 1 ? " small" : ""}${rows > 16 ? " many" : ""}`, style: `--columns:${columns};--rows:${rows}` });
    last.memory = make("div", { class: "memory" }, last.grid, axis(units, unit, columns));
  }
  const isChanged = (start, length) => changed.some(([at, count]) => at < start + length && start < at + count);
  const drawer = { unit, columns, act, hint };
  const drawn = new Map();
  for (const block of blocks) {
    const [start, length] = block;
    const isNew = isChanged(start, length);
    const key = `${block.join("/")}${isNew ? "!" : ""}`;
    const before = last.blocks.get(start);
    const lies = before?.length === length ? before : { length, key: null, elements: pieces(block, drawer) };
    if (lies.key !== key) {
      write(lies.elements, block, isNew, drawer);
      lies.key = key;
    }
    drawn.set(start, lies);
  }
  last.blocks = drawn;
  const claims = marks.flatMap(([start, length, name]) => rectangles(start, length, columns).map((piece) => {
    const text = name === "-" ? "free" : name;
    return make("div", { class: "mark", style: place(piece), title: `claimed: ${text}` }, make("b", {}, name === "-" ? "" : name));
  }));
  fill(last.grid, ...[...drawn.values()].flatMap((lies) => lies.elements), ...claims);
  return last.memory;
}

/** Draws the offsets below a strip of one row, or says how much a row is. */
function axis(units, unit, columns) {
  if (units > columns) return make("p", { class: "axis-note" }, `a row is ${size(columns * unit)}, a column ${size(unit)}`);
  const ticks = [0, 1, 2, 3, 4].map((quarter) => (units * quarter) / 4).filter(Number.isInteger);
  return make("div", { class: "axis", "aria-hidden": "true" },
    ...ticks.map((at) => make("span", { style: `left:${(100 * at) / units}%` }, size(at * unit))));
}
