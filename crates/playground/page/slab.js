// The tab of the slab cache: slabs over the sets of a CPU cache, and magazines.

import { make } from "./dom.js";

const COLOURS = `objects 640
alloc
alloc 5
alloc 6
alloc 6
alloc 6
alloc 36
free 7
alloc
free all
shrink`;

const UNCOLOURED = `objects 640 uncoloured
alloc 24
alloc 36
free all
shrink`;

const MAGAZINES = `objects 256
alloc 40
free all
cpu 1
alloc 20
cpu 0
alloc 20
cpu 1
free all`;

function head(scene) {
  const [bytes, colours] = scene.find(".settings").querySelectorAll("input");
  return `objects ${bytes.value.trim() || "640"}${colours.checked ? "" : " uncoloured"}`;
}

function controls(scene) {
  const button = (text, step, name) => make("button", { type: "button", "data-do": name, onclick: () => scene.add(step) }, text);
  return [
    make("button", { type: "button", class: "main", "data-do": "allocate", onclick: () => slabView.allocate(scene) }, "Allocate an object"),
    button("Allocate 10", "alloc 10", "ten"),
    button("Free the last", "free last", "last"),
    button("Free all", "free all", "all"),
    button("Shrink", "shrink", "shrink"),
    make("label", {}, "CPU ", make("select", { name: "cpu" }, make("option", {}, "0"), make("option", {}, "1"))),
    make("details", { class: "settings" },
      make("summary", {}, "Cache"),
      make("div", { class: "bar" },
        make("label", {}, "Bytes of an object ", make("input", { type: "text", inputmode: "numeric", size: 5, name: "bytes" })),
        make("label", {}, make("input", { type: "checkbox", name: "colours", checked: true }), " Colours"),
        make("button", { type: "button", "data-do": "restart", onclick: () => scene.load(head(scene)) }, "Start over"))),
  ];
}

/** Draws a slab to scale: a line of the CPU cache is a 64th of the width. */
function slabRow(slab, index, state, scene) {
  const percent = (bytes) => (100 * bytes) / state.bytes;
  const objects = slab.objects.map((number, at) => {
    const left = percent(slab.colour + at * state.stride);
    const isUsed = number !== "";
    const name = isUsed ? `object ${number}, in use` : "a free object";
    return make(isUsed ? "button" : "span", {
      type: isUsed ? "button" : null,
      class: `object ${isUsed ? `taken c${index % 6}` : "free"}`,
      style: `left:${left}%;width:${percent(state.stride)}%`,
      title: name,
      "data-at": isUsed ? index * 1000 + at : null,
      "aria-label": isUsed ? `${name}, slab ${index + 1}. Enter frees it.` : null,
      onclick: isUsed ? () => scene.add(`free ${number}`) : null,
    }, isUsed && percent(state.stride) > 6 ? String(number) : "");
  });
  const record = make("span", { class: "record", style: `left:${percent(state.record)}%;right:0`, title: "the slab's own record" });
  return make("div", { class: "slab" },
    make("span", { class: "slab-name" }, `colour ${slab.colour}`),
    make("div", { class: "slab-row", role: "group", "aria-label": `Slab ${index + 1}, first object at byte ${slab.colour}` },
      ...objects, state.record < state.bytes ? record : null));
}

/** Draws for each set of the CPU cache how many objects begin there. */
function sets(state) {
  const most = Math.max(...state.sets, 8);
  const bars = state.sets.map((count, set) => make("span", {
    class: count > 8 ? "set full" : "set", title: `set ${set}: ${count} objects begin here`, style: `height:${(100 * count) / most}%`,
  }));
  const crowded = state.sets.filter((count) => count > 8).length;
  return make("div", { class: "slab" },
    make("span", { class: "slab-name" }, "sets"),
    make("div", { class: "sets", role: "img", "aria-label": `Objects that begin in each of the 64 sets, at most ${Math.max(...state.sets)}; ${crowded} sets have more than 8` },
      make("i", { style: `bottom:${800 / most}%` }), ...bars));
}

function draw(state, scene) {
  const rows = state.slabs.map((slab, index) => slabRow(slab, index, state, scene));
  return [make("div", { class: "slabs" },
    ...(rows.length ? rows : [make("p", { class: "empty" }, "There is no slab yet. Allocate an object.")]),
    sets(state),
    rows.length ? make("p", { class: "hint" }, "Click an object to free it.") : "",
    make("p", { class: "axis-note" }, "From left to right the bytes of a page: 64 lines of the CPU cache, each in its own set. The bars count the objects that begin in a set; above the line, 8, they evict one another."))];
}

function magazine(length, room, name) {
  const cells = Array.from({ length: Math.max(room, length) }, (_, index) => make("i", { class: index < length ? "full" : "" }));
  return make("div", { class: "magazine" }, make("span", {}, `${name}: ${length} of ${room}`), make("div", { "aria-hidden": "true" }, ...cells));
}

function panels(state) {
  const cpus = state.magazines.map((lengths, cpu) => make("div", { class: "cpu" },
    make("h3", {}, `CPU ${cpu}${cpu === state.cpu ? ", current" : ""}`),
    lengths.length === 0 ? make("p", { class: "faint" }, "No magazine yet: this CPU asks seldom.") : null,
    ...lengths.map((length, index) => magazine(length, state.room, ["loaded", "previous"][index]))));
  return [
    make("section", { class: "panel wide" },
      make("h2", {}, "Magazines"),
      make("p", { class: "faint" }, "Each CPU keeps freed objects in two magazines, and allocates from them without a lock. Full ones go to the depot."),
      make("div", { class: "cpus" }, ...cpus, make("div", { class: "cpu" }, make("h3", {}, "Depot"), make("p", {}, `${state.depot} full`)))),
    make("section", { class: "panel" },
      make("h2", {}, "Objects"),
      make("p", {}, `${state.held} in use, ${state.cached} in magazines, ${state.slabs.reduce((sum, slab) => sum + slab.free, 0)} free in ${state.slabs.length} slabs of ${state.capacity}.`)),
  ];
}

export const slabView = {
  examples: [
    ["Slabs with colours", COLOURS, 6],
    ["The same without colours", UNCOLOURED, 2],
    ["Magazines of two CPUs", MAGAZINES, 2],
  ],
  controls: (scene) => {
    const made = controls(scene);
    const select = made.map((element) => element.querySelector?.("select")).find(Boolean);
    select.addEventListener("change", () => scene.add(`cpu ${select.value}`));
    return made;
  },
  draw,
  panels,
  allocate: (scene) => scene.add("alloc"),
  opened: (state, scene) => {
    const [bytes, colours] = scene.find(".settings").querySelectorAll("input");
    if (document.activeElement !== bytes) bytes.value = scene.session.head.match(/\d+/)?.[0] ?? "640";
    if (document.activeElement !== colours) colours.checked = state.coloured;
    scene.find("summary").textContent = `Cache: ${state.stride} bytes, colours ${state.coloured ? "on" : "off"}`;
    scene.find("select[name=cpu]").value = String(state.cpu);
    for (const name of ["last", "all"]) scene.find(`[data-do=${name}]`).disabled = state.held === 0;
  },
};
