// The tab of the judge: a script with answers, and the first line that is wrong.

import { fill, make, narrow } from "./dom.js";
import { strip } from "./blocks.js";
import { toFragment } from "./session.js";

const EXAMPLES = [
  ["A block that overlaps", `memory 16K unit 1K
alloc A 3.6K -> 0
alloc B 1.5K -> 4K
alloc C 1.2K -> 6K
free B -> ok
alloc D 3K -> 4K`],
  ["Buddies that were not merged", `memory 16K unit 1K
alloc A 1K -> 0
alloc B 1K -> 1K
free A
free B
list 0: 0, 1
list 4:`],
  ["Refused, though memory is free", `memory 16K unit 1K
alloc A 4K -> 0
alloc B 4K -> 12K
free A -> ok
alloc C 8K -> none`],
  ["Any free block is right", `memory 16K unit 1K
alloc A 2K -> 14K
alloc B 2K -> 4K
alloc C 4K -> 8K
free B -> ok
free B -> error
state 8- 4C 2- 2A`],
  ["The course example, with states", `memory 16K unit 1K
start => 16-
allocate A 3.6K => 4A 4- 8-
allocate B 1.5K => 4A 2B 2- 8-
allocate C 1.2K; allocate D 1.9K; allocate E 2.7K => 4A 2B 2C 2D 2- 4E
free C => 4A 2B 2- 2D 2- 4E
free B => 4A 4- 2D 2- 4E
allocate F 1.5K; allocate G 1.6K => 4A 2G 2- 2D 2F 4E
free D => 4A 2G 2- 2- 2F 4E
free A => 4- 2G 2- 2- 2F 4E
free G => 8- 2- 2F 4E`],
];

const FORMAT = [
  ["memory 16K unit 1K", "the first line: memory and its smallest block"],
  ["alloc A 3.6K -> 0", "A asks for 3.6 KiB; your allocator answers with a start. K, B and 0x400 are bytes, a plain number counts units"],
  ["alloc B 9K -> none", "your allocator refuses"],
  ["alloc 2 -> 4K", "without a name, blocks are called A, B, C and so on"],
  ["alloc C order 2 -> 8", "a block of order 2: four units"],
  ["free A", "or `free 8`: the block that starts at unit 8"],
  ["free A -> error", "your allocator refuses a wrong free; `ok`: it does the free"],
  ["list 2: 4, 12", "your free blocks of order 2 start at units 4 and 12"],
  ["state 4A 2B 2- 8-", "all blocks from left to right, in units; - is free. Also behind a request: free A => 16-"],
  ["policy lowest", "from here on only the lowest of the smallest blocks is right; `smallest`; `any`, as at first"],
  ["# a comment", "answers and claims are optional"],
];

function picture(title, { units, unit }, { plain, blocks, marks }) {
  return make("section", { class: "panel" },
    make("h2", {}, title),
    strip({ units, unit, blocks, marks }),
    make("p", { class: "plain" }, make("code", {}, plain)));
}

export class Judge {
  name = "judge";

  constructor(engine) {
    this.engine = engine;
    this.panel = document.getElementById("panel-judge");
    this.field = make("textarea", { rows: 12, spellcheck: "false", autocapitalize: "off", autocomplete: "off", id: "judge-text" });
    const select = make("select", { "data-do": "example" },
      make("option", { value: "", hidden: true }, "Your own text"), ...EXAMPLES.map(([name], index) => make("option", { value: index }, name)));
    select.addEventListener("change", () => this.load(EXAMPLES[select.value][1]));
    this.said = make("p", { class: "said", role: "status", "aria-live": "polite" });
    this.result = make("div", { class: "result" });
    this.panel.append(
      make("div", { class: "judge" },
        make("div", {},
          make("label", { for: "judge-text" }, "Requests and answers, one a line"), this.field,
          make("div", { class: "bar" },
            make("button", { type: "button", class: "main", "data-do": "judge", onclick: () => this.show() }, "Judge"),
            make("label", {}, "Example ", select))),
        make("div", {}, this.said, this.result)),
      make("details", { class: "format" }, make("summary", {}, "The format"),
        make("dl", {}, ...FORMAT.flatMap(([line, words]) => [make("dt", {}, make("code", {}, line)), make("dd", {}, ...words.split("`").map((part, index) => (index % 2 ? make("code", {}, part) : part)))]))));
    this.field.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.show();
    });
    narrow.addEventListener("change", () => this.verdict && this.#draw());
    this.field.value = EXAMPLES[0][1];
  }

  load(text) {
    this.field.value = text;
    this.show();
  }

  show() {
    try {
      this.verdict = this.engine.ask("judge", this.field.value);
    } catch (error) {
      this.verdict = { right: false, said: error.message, steps: [], hidden: 0 };
    }
    if (this.verdict.complaint) this.verdict = { right: false, said: this.verdict.complaint.message, steps: [], hidden: 0 };
    const example = EXAMPLES.findIndex(([, text]) => text === this.field.value);
    this.panel.querySelector("[data-do=example]").value = example < 0 ? "" : String(example);
    this.#draw();
    this.#remember();
  }

  #draw() {
    const { right, said, wrong, last, steps, hidden } = this.verdict;
    this.said.textContent = said;
    this.said.className = `said ${right ? "good" : "bad"}`;
    const parts = [];
    if (wrong) {
      parts.push(make("p", { class: "wrong-line" }, `Line ${wrong.line}: `, make("code", {}, wrong.text)));
      parts.push(make("p", { class: "rule" }, make("strong", {}, "The rule: "), wrong.rule));
    }
    if (wrong?.theirs) parts.push(picture("Your state", this.verdict, wrong.theirs));
    if (wrong?.right) parts.push(picture("The right state", this.verdict, wrong.right));
    else if (last) parts.push(picture("The last state", this.verdict, last));
    if (steps.length > 0) parts.push(this.#lines(steps, hidden));
    fill(this.result, ...parts);
  }

  #lines(steps, hidden) {
    const right = steps.length + hidden;
    const rows = steps.map(({ line, text, plain }) => make("tr", {},
      make("td", {}, String(line)), make("td", {}, make("code", {}, text)), make("td", {}, make("code", {}, plain))));
    return make("details", { class: "right-lines" },
      make("summary", {}, `${right === 1 ? "The right line" : `The ${right} right lines`}${this.verdict.wrong ? " before it" : ""}, with ${right === 1 ? "its state" : "their states"}`),
      make("div", { class: "scrolls", tabindex: "0", role: "region", "aria-label": "Right lines" },
        make("table", {},
          make("thead", {}, make("tr", {}, ...["Line", "Request", "State after it"].map((title) => make("th", { scope: "col" }, title)))),
          make("tbody", {}, ...rows))),
      hidden > 0 ? make("p", { class: "faint" }, `${hidden} more right lines are not listed.`) : null);
  }

  get fragment() {
    return toFragment(this.name, 0, this.field.value);
  }

  #remember() {
    if (this.panel.hidden) return;
    try {
      // Browsers cut very long addresses: a long script is not kept in it.
      history.replaceState(null, "", this.field.value.length < 20000 ? this.fragment : "#judge");
    } catch {
      // A browser may refuse so many changes.
    }
  }
}
