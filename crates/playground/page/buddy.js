// The tab of the buddy: blocks, how they were split, the bitmap, the CPU's slot.

import { blocksOfTree, tree } from "./tree.js";
import { columnsFor, drawing, strip } from "./blocks.js";
import { make, size } from "./dom.js";

const EXAMPLE = `memory 16K unit 1K
alloc A 3.6K
alloc B 1.5K
alloc C 1.2K; alloc D 1.9K; alloc E 2.7K
free C
free B
alloc F 1.5K; alloc G 1.6K
free D
free A
free G
alloc H 6.8K; free E; alloc I 850B
alloc J 610B; alloc K 1.6K; alloc L 750B; free H
alloc M 3.9K; alloc N 1.7K; free L; free F`;

const HOLES = `memory 64K unit 4K
alloc A 4K; alloc B 4K; alloc C 4K; alloc D 4K; alloc E 4K; alloc F 4K; alloc G 4K; alloc H 4K
alloc I 4K; alloc J 4K; alloc K 4K; alloc L 4K; alloc M 4K; alloc N 4K; alloc O 4K; alloc P 4K
free B; free D; free F; free H; free J; free L; free N; free P
alloc Q 8K
free A
alloc Q 8K`;

const SLOT = `memory 256K unit 4K slot
alloc A 4K
alloc B 4K
alloc C 8K
free A
alloc D 4K
free B; free C; free D
drain`;

/** Puts the fields of the memory into the head of a script. */
function head(scene) {
  const [memory, unit, slot] = scene.find(".settings").querySelectorAll("input");
  return `memory ${memory.value.trim() || "16K"} unit ${unit.value.trim() || "1K"}${slot.checked ? " slot" : ""}`;
}

function controls(scene) {
  const field = make("input", { type: "text", value: "2K", size: 6, name: "size", spellcheck: "false", autocomplete: "off" });
  field.addEventListener("keydown", (event) => event.key === "Enter" && buddyView.allocate(scene));
  return [
    make("label", {}, "Size ", field),
    make("button", { type: "button", class: "main", "data-do": "allocate", onclick: () => buddyView.allocate(scene) }, "Allocate"),
    make("button", { type: "button", "data-do": "drain", hidden: true, onclick: () => scene.add("drain") }, "Empty the slot"),
    make("details", { class: "settings" },
      make("summary", {}, "Memory"),
      make("div", { class: "bar" },
        make("label", {}, "Memory ", make("input", { type: "text", size: 6, name: "memory" })),
        make("label", {}, "Smallest block ", make("input", { type: "text", size: 6, name: "unit" })),
        make("label", {}, make("input", { type: "checkbox", name: "slot" }), " CPU slot"),
        make("button", { type: "button", "data-do": "restart", onclick: () => scene.load(head(scene)) }, "Start over"))),
  ];
}

function act(scene) {
  return ([start, , state, name]) => {
    const offset = size(start * scene.state.unit);
    if (state === "taken") scene.add(`free ${name}`);
    else if (state === "free") scene.add(`alloc ${sizeField(scene)} at ${offset}`);
    else scene.find(".said").textContent = `The memory at ${offset} is not in use, and not in the bitmap either: only the allocator can give it out.`;
  };
}

function sizeField(scene) {
  return scene.find("input[name=size]").value.trim().replace(/\s+/g, "") || "1";
}

function draw(state, scene) {
  scene.drawing ??= drawing();
  const hint = ([, , kind]) => ({ taken: ". Enter frees it.", free: ". Enter allocates here." })[kind] ?? "";
  return [
    strip(state, { act: act(scene), hint, last: scene.drawing }),
    make("p", { class: "hint" }, "Click a block to free it. Click free memory to allocate there."),
    make("p", { class: "plain" }, make("span", { class: "faint" }, "from left to right: "), make("code", {}, state.plain)),
  ];
}

function ordersPanel(state) {
  const rows = state.orders.slice().reverse().map(({ order, size: bytes, free }) => make("tr", {},
    make("th", { scope: "row" }, `${order}`), make("td", {}, bytes),
    make("td", {}, free.length === 0 ? make("span", { class: "faint" }, "none")
      : free.slice(0, 12).map((start) => size(start * state.unit)).join(", ") + (free.length > 12 ? `, and ${free.length - 12} more` : ""))));
  return make("section", { class: "panel" },
    make("h2", {}, "Free blocks by order"),
    make("table", {},
      make("thead", {}, make("tr", {}, ...["Order", "Size", "Free at"].map((title) => make("th", { scope: "col" }, title)))),
      make("tbody", {}, ...rows)));
}

function treePanel(state) {
  if (state.units > 64) return null;
  return make("section", { class: "panel wide" },
    make("h2", {}, "How memory is split"),
    tree(state, blocksOfTree(state)),
    make("p", { class: "faint" }, "Each row halves the blocks of the row above. Two halves with one parent are buddies. "
      + "Thick frames: split or merged by this step."));
}

/** Draws the bitmap. What was drawn for the same memory before stays, but for the bits that changed. */
function bitsPanel(state, scene) {
  const columns = Math.max(columnsFor(state.units), Math.min(state.units, 16));
  const measure = `${state.units}/${columns}`;
  if (scene.bits?.measure !== measure) {
    const cells = [...state.bits].map(() => make("span"));
    const grid = make("div", { class: "bits", style: `--columns:${columns}`, role: "img" }, ...cells);
    const note = make("p", { class: "faint" });
    scene.bits = { measure, cells, grid, note, text: "", panel: make("section", { class: "panel" }, make("h2", {}, "Bitmap"), grid, note) };
  }
  const { cells, grid, note, panel, text } = scene.bits;
  let taken = 0;
  for (let at = 0; at < state.units; at += 1) {
    const bit = state.bits[at];
    if (bit === "1") taken += 1;
    if (bit === text[at]) continue;
    cells[at].className = bit === "1" ? "one" : "zero";
    if (state.units <= 64) cells[at].textContent = bit;
  }
  scene.bits.text = state.bits;
  grid.setAttribute("aria-label", `${taken} of ${state.units} bits are set`);
  note.textContent = `A bit for each unit: 1 is taken. ${taken} of ${state.units} are set. `
    + (state.slot ? "What the CPU's slot caches counts as taken." : "Nothing else is stored about free memory.");
  return panel;
}

function slotPanel(state) {
  if (!state.slot) return null;
  const byUnits = new Map();
  for (const [start, units] of state.cached) byUnits.set(units, [...(byUnits.get(units) ?? []), start]);
  const rows = [...byUnits].sort(([one], [other]) => one - other).map(([units, starts]) => make("li", {},
    make("strong", {}, `${size(units * state.unit)}: `), starts.reverse().map((start) => size(start * state.unit)).join(", ")));
  const deferred = state.blocks.filter(([, , kind]) => kind === "deferred").reduce((sum, [, units]) => sum + units, 0);
  return make("section", { class: "panel" },
    make("h2", {}, "The CPU's slot"),
    rows.length ? make("ul", { class: "slot" }, ...rows) : make("p", {}, "The slot is empty."),
    make("p", { class: "faint" }, "The next request of a size gets the block that is named first, without touching the bitmap."
      + (deferred > 0 ? ` The frees of ${size(deferred * state.unit)} are deferred: their bits are cleared later, together.` : "")));
}

export const buddyView = {
  examples: [
    ["The 16 KiB example", EXAMPLE, 2],
    ["Holes: half is free, nothing fits", HOLES, 4],
    ["A CPU's slot", SLOT, 2],
  ],
  controls,
  draw,
  panels: (state, scene) => [treePanel(state), ordersPanel(state), bitsPanel(state, scene), slotPanel(state)],
  allocate: (scene) => scene.add(`alloc ${sizeField(scene)}`),
  opened: (state, scene) => {
    const [memory, unit, slot] = scene.find(".settings").querySelectorAll("input");
    if (document.activeElement !== memory) memory.value = state.size;
    if (document.activeElement !== unit) unit.value = size(state.unit);
    if (document.activeElement !== slot) slot.checked = state.slot;
    scene.find("summary").textContent = `Memory: ${state.size}, smallest block ${size(state.unit)}${state.slot ? ", with a slot" : ""}`;
    scene.find("[data-do=allocate]").textContent = `Allocate ${state.next}`;
    scene.find("[data-do=drain]").hidden = !state.slot;
  },
};
