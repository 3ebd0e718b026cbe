// What the three scenes share: a session that is replayed, steps, play, undo, and sharing.

import { fill, make, narrow } from "./dom.js";
import { Session, toFragment } from "./session.js";
import { redraw, rove } from "./roving.js";

/** Milliseconds between two steps that are played. */
const PACE = 1400;
/** Characters of a session from which on its address is long. */
const LONG = 4000;

export class Scene {
  #timer = null;
  #remembering = null;

  /**
   * `view` has `examples` (name, text, position), `controls(scene)`, `draw(state, scene)`, `panels(state, scene)`,
   * `allocate(scene)` and `opened(state)`.
   */
  constructor(name, engine, view) {
    this.name = name;
    this.engine = engine;
    this.view = view;
    this.panel = document.getElementById(`panel-${name}`);
    this.panel.append(document.getElementById("scene-template").content.cloneNode(true));
    const [, text, position] = view.examples[0];
    this.session = new Session(text, position);
    this.#connect();
    fill(this.find(".controls"), ...view.controls(this));
    rove(this.find(".picture"));
    narrow.addEventListener("change", () => this.state && this.#draw());
  }

  find(selector) {
    return this.panel.querySelector(selector);
  }

  #connect() {
    const does = (name, action, event = "click") => this.find(`[data-do=${name}]`).addEventListener(event, action);
    does("undo", () => this.undo());
    does("step", () => this.step());
    does("play", () => this.play());
    does("rewind", () => this.goTo(0));
    does("share", () => this.#share());
    does("load", () => this.load(this.find("textarea").value));
    const select = this.find("[data-do=example]");
    select.append(make("option", { value: "", hidden: true }, "Your own steps"));
    this.view.examples.forEach(([name], index) => select.append(make("option", { value: index }, name)));
    does("example", () => {
      const [, text, position] = this.view.examples[select.value];
      this.load(text, position);
    }, "change");
  }

  /** Takes over a script and shows it. */
  load(text, position = Infinity) {
    this.pause();
    this.session.load(text, position);
    this.show();
  }

  /** Adds a step and shows the state after it. A step that is refused is taken back, with its complaint. */
  add(step) {
    this.pause();
    const { steps, position } = this.session;
    this.session.add(step);
    const complaint = this.show();
    if (complaint) {
      Object.assign(this.session, { steps, position });
      this.show(complaint);
    }
  }

  undo() {
    this.pause();
    if (this.session.position > 0) this.goTo(this.session.position - 1);
  }

  step() {
    this.pause();
    this.#forward();
  }

  #forward() {
    if (!this.session.isAtEnd) this.goTo(this.session.position + 1, false);
  }

  goTo(position, pauses = true) {
    if (pauses) this.pause();
    this.session.position = position;
    this.show();
  }

  /** Plays the steps that are left, from the first one if all are done; or pauses. */
  play() {
    if (this.#timer) return this.pause();
    if (this.session.isAtEnd) this.goTo(0);
    this.#timer = setInterval(() => {
      this.#forward();
      if (this.session.isAtEnd) this.pause();
    }, PACE);
    this.#showPlaying();
  }

  pause() {
    clearInterval(this.#timer);
    this.#timer = null;
    this.#showPlaying();
  }

  #showPlaying() {
    const button = this.find("[data-do=play]");
    button.textContent = this.#timer ? "Pause" : "Play";
    button.setAttribute("aria-pressed", String(this.#timer !== null));
  }

  /** Asks the allocators for the state, and draws it. Returns the complaint, if there is one. */
  show(earlier = null) {
    let state;
    try {
      state = this.engine.ask(`${this.name} ${this.session.position}`, this.session.text);
    } catch (error) {
      state = { complaint: { message: error.message } };
    }
    const complaint = earlier ?? state.complaint ?? null;
    this.#complain(complaint);
    if (state.blocks || state.slabs || state.pages) {
      this.session.position = state.position;
      this.state = state;
      this.#draw();
    } else {
      this.pause();
    }
    return state.complaint ?? null;
  }

  #complain(complaint) {
    const line = this.find(".complaint");
    line.hidden = !complaint;
    line.textContent = complaint?.message ?? "";
    if (complaint) this.pause();
  }

  #draw() {
    const { state, session } = this;
    const picture = this.find(".picture");
    redraw(picture, () => fill(picture, ...this.view.draw(state, this)));
    this.find(".said").textContent = state.said;
    fill(this.find(".notes"), ...state.notes.map((note) => make("li", {}, note)));
    fill(this.find(".panels"), ...this.view.panels(state, this));
    this.find(".where").textContent = `${session.position} of ${session.steps.length}`;
    this.find("[data-do=undo]").disabled = session.position === 0;
    this.find("[data-do=rewind]").disabled = session.position === 0;
    this.find("[data-do=step]").disabled = session.isAtEnd;
    this.find("[data-do=play]").disabled = session.steps.length === 0;
    this.find(".link").hidden = true;
    const example = this.view.examples.findIndex(([, text]) => text === session.text);
    this.find("[data-do=example]").value = example < 0 ? "" : String(example);
    this.#list();
    if (document.activeElement !== this.find("textarea")) this.find("textarea").value = session.text;
    this.view.opened?.(state, this);
    this.#remember();
  }

  /** Lists the steps around the current one. */
  #list() {
    const { steps, position } = this.session;
    const from = Math.max(0, Math.min(position - 8, steps.length - 16));
    const shown = steps.slice(from, from + 16);
    const list = this.find(".steps");
    list.start = from + 1;
    fill(list, ...shown.map((step, index) => {
      const number = from + index + 1;
      const current = number === position;
      return make("li", { class: number > position ? "ahead" : null },
        make("button", { type: "button", "aria-current": current ? "step" : null, onclick: () => this.goTo(number) }, step));
    }));
  }

  get fragment() {
    return toFragment(this.name, this.session.position, this.session.text);
  }

  /**
   * Keeps the session in the address, as long as the panel is shown. A browser takes long for a long address: such a one
   * waits until nothing was clicked for a moment.
   */
  #remember() {
    clearTimeout(this.#remembering);
    const remember = () => {
      if (this.panel.hidden) return;
      try {
        history.replaceState(null, "", this.fragment);
      } catch {
        // A browser may refuse so many changes: the button Share has the address.
      }
    };
    if (this.session.text.length < LONG) remember();
    else this.#remembering = setTimeout(remember, 400);
  }

  async #share() {
    const field = this.find(".link input");
    this.find(".link").hidden = false;
    field.value = location.href.split("#")[0] + this.fragment;
    field.select();
    try {
      await navigator.clipboard.writeText(field.value);
      this.find(".said").textContent = "The address of this session is copied.";
    } catch {
      field.focus();
      this.find(".said").textContent = "The address of this session is in the field, ready to copy.";
    }
  }
}
