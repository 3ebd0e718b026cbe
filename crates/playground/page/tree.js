// Draws how memory is split: a row for each order, from the whole of memory to single units.

import { colourOf, make, size } from "./dom.js";

/** Returns the blocks of each order, and the blocks that are split, as `[start, units, kind, name]`. */
export function blocksOfTree({ units, blocks, orders }) {
  const rows = orders.map(() => []).reverse();
  const largest = orders[orders.length - 1].units;
  const rowOf = (length) => Math.log2(largest / length);
  for (const block of blocks) {
    const row = rowOf(block[1]);
    if (Number.isInteger(row)) rows[row].push(block);
  }
  for (let length = largest; length > 1; length /= 2) {
    for (let start = 0; start + length <= units; start += length) {
      const inside = blocks.some(([at, count]) => start <= at && at + count <= start + length && count < length);
      if (inside) rows[rowOf(length)].push([start, length, "parted"]);
    }
  }
  return rows;
}

/** Draws the rows. A screen reader has the same facts in the table of free blocks. */
export function tree({ units, unit, orders, splits, merges }, rows) {
  const happened = (start, length) => {
    const isThat = ([at, count]) => at === start && count === length;
    return `${splits.some(isThat) ? " just-split" : ""}${merges.some(isThat) ? " just-merged" : ""}`;
  };
  const heads = orders.slice().reverse();
  return make("div", { class: "tree", "aria-hidden": "true" }, ...rows.map((row, index) => make("div", { class: "level" },
    make("span", { class: "level-name" }, heads[index].size),
    make("div", { class: "level-row" }, ...row.map(([start, length, kind, name]) => make("span", {
      class: `node ${kind} ${kind === "taken" ? colourOf(name) : ""}${happened(start, length)}`,
      style: `left:${(100 * start) / units}%;width:${(100 * length) / units}%`,
      title: `${size(length * unit)} at ${size(start * unit)}: ${kind === "parted" ? "split" : kind}`,
    }, kind === "taken" ? name : ""))))));
}
