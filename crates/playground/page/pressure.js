// The tab of memory pressure: the owner of each page, and the watermarks.

import { make } from "./dom.js";

const EXAMPLE = `dentry 700
dentry 300
free dentry all
inode 100
inode 120
inode 200
free inode 150
dentry 200
free inode all
free dentry all
shrink`;

const OWNERS = {
  D: ["c0", "a slab of dentries"], d: ["kept c0", "an empty slab of dentries, kept"],
  I: ["c1", "a slab of inodes"], i: ["kept c1", "an empty slab of inodes, kept"],
  R: ["registry", "the registry's own"], ".": ["free", "free"],
};

function count(scene) {
  return scene.find("input[name=count]").value.trim() || "100";
}

function controls(scene) {
  const button = (text, step, name) => make("button", {
    type: "button", class: name === "allocate" ? "main" : null, "data-do": name, onclick: () => scene.add(step()),
  }, text);
  return [
    make("label", {}, "Objects ", make("input", { type: "text", inputmode: "numeric", value: "100", size: 5, name: "count" })),
    button("Allocate dentries", () => `dentry ${count(scene)}`, "allocate"),
    button("Allocate inodes", () => `inode ${count(scene)}`, "inode"),
    button("Free dentries", () => `free dentry ${count(scene)}`, "free-dentry"),
    button("Free inodes", () => `free inode ${count(scene)}`, "free-inode"),
    button("Shrink both", () => "shrink", "shrink"),
  ];
}

function draw(state) {
  const cells = [...state.pages].map((letter, page) => {
    const [classes, words] = OWNERS[letter];
    return make("span", { class: `page ${classes}`, title: `page ${page}: ${words}` }, letter === "." ? "" : letter);
  });
  const legend = Object.entries(OWNERS).map(([letter, [classes, words]]) => make("li", {},
    make("span", { class: `page ${classes}`, "aria-hidden": "true" }, letter === "." ? "" : letter), ` ${words}`));
  const words = `${state.free} pages free, ${state.reclaimable} in empty slabs. `
    + state.users.map((user) => `${user.name}: ${user.held} in ${user.slabs} slabs`).join(". ");
  return [
    make("div", { class: "pages", role: "img", "aria-label": `${state.pages.length} pages: ${words}` }, ...cells),
    make("ul", { class: "legend" }, ...legend),
    gauge(state),
  ];
}

/** Draws the free pages against the watermarks. */
function gauge(state) {
  const scale = 32;
  const percent = (pages) => Math.min(100, (100 * pages) / scale);
  const mark = (name) => make("i", { style: `left:${percent(state[name])}%`, title: `${name}: ${state[name]} pages` });
  return make("div", { class: "gauge" },
    make("span", { class: "gauge-name" }, `${state.free} pages free`),
    make("div", { class: `gauge-bar ${state.pressure}`, "aria-hidden": "true" },
      make("b", { style: `width:${percent(state.free)}%` }), mark("min"), mark("low"), mark("high")),
    make("span", { class: "gauge-note" }, `pressure: ${state.pressure}. Watermarks: min ${state.min}, low ${state.low}, high ${state.high} pages.`));
}

function panels(state) {
  const rows = state.users.map((user) => make("tr", {},
    make("th", { scope: "row" }, user.name), make("td", {}, String(user.held)), make("td", {}, String(user.slabs)), make("td", {}, String(user.pages))));
  return [make("section", { class: "panel" },
    make("h2", {}, "Caches"),
    make("table", {},
      make("thead", {}, make("tr", {}, ...["Cache", "In use", "Slabs", "Pages"].map((title) => make("th", { scope: "col" }, title)))),
      make("tbody", {}, ...rows)))];
}

export const pressureView = {
  examples: [["Two caches, 64 pages", EXAMPLE, 4]],
  controls,
  draw,
  panels,
  allocate: (scene) => scene.add(`dentry ${count(scene)}`),
  opened: (state, scene) => {
    scene.find("[data-do=free-dentry]").disabled = state.users[0].held === 0;
    scene.find("[data-do=free-inode]").disabled = state.users[1].held === 0;
  },
};
