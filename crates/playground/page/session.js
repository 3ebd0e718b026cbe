// A session: the head of a script, its steps, and how many of them are done. Nothing else is kept.

export class Session {
  head = "";
  steps = [];
  position = 0;

  constructor(text, position) {
    this.load(text, position);
  }

  /** Takes over a script. The first line is its head if it begins with one of `memory` and `objects`. */
  load(text, position = Infinity) {
    const lines = text.split("\n").map((line) => line.replace(/#.*/, "").trim()).filter((line) => line !== "");
    const hasHead = /^(memory|objects)\b/i.test(lines[0] ?? "");
    this.head = hasHead ? lines[0] : "";
    this.steps = hasHead ? lines.slice(1) : lines;
    this.position = Math.max(0, Math.min(position, this.steps.length));
  }

  get text() {
    return [this.head, ...this.steps].filter((line) => line !== "").join("\n");
  }

  /** Adds a step after those that are done; later ones are dropped. */
  add(step) {
    this.steps = [...this.steps.slice(0, this.position), step];
    this.position = this.steps.length;
  }

  get isAtEnd() {
    return this.position >= this.steps.length;
  }
}

/** Writes a session into the fragment of an address. */
export function toFragment(tab, position, text) {
  const line = (text) => encodeURIComponent(text).replaceAll("%20", "+");
  return `#${[tab, position, ...text.split("\n").map(line)].join("/")}`;
}

/** Reads the fragment of an address; null if there is none. Throws if it cannot be read. */
export function fromFragment(fragment, tabs) {
  if (fragment === "" || fragment === "#") return null;
  const [tab, position, ...lines] = fragment.slice(1).split("/");
  if (!tabs.includes(tab)) throw new Error(`the page has no part called "${tab.slice(0, 20)}"`);
  const text = lines.map((line) => decodeURIComponent(line.replaceAll("+", " "))).join("\n");
  const number = Number.parseInt(position, 10);
  return { tab, text: text.trim() === "" ? null : text, position: Number.isNaN(number) ? Infinity : number };
}
