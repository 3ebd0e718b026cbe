// Starts the allocators, and connects tabs, keys and the address.

import { Engine } from "./engine.js";
import { Judge } from "./judge.js";
import { Scene } from "./scene.js";
import { buddyView } from "./buddy.js";
import { fromFragment } from "./session.js";
import { pressureView } from "./pressure.js";
import { slabView } from "./slab.js";

const TABS = ["buddy", "slab", "pressure", "judge"];

function notice(text) {
  const line = document.getElementById("notice");
  line.hidden = text === "";
  line.textContent = text;
}

class Page {
  current = null;

  constructor(engine) {
    this.engine = engine;
    this.parts = {
      buddy: new Scene("buddy", engine, buddyView),
      slab: new Scene("slab", engine, slabView),
      pressure: new Scene("pressure", engine, pressureView),
      judge: new Judge(engine),
    };
    const tabs = document.getElementById("tabs");
    tabs.addEventListener("click", (event) => event.target.id.startsWith("tab-") && this.open(event.target.id.slice(4)));
    tabs.addEventListener("keydown", (event) => this.#moveTab(event));
    document.addEventListener("keydown", (event) => this.#key(event));
    // Firefox clicks a button when Space is released.
    document.addEventListener("keyup", (event) => this.#isPlayKey(event) && event.preventDefault());
    window.addEventListener("hashchange", () => this.follow(location.hash));
    document.querySelector(".help").addEventListener("toggle", () => {
      const { held, all } = this.engine.heap();
      document.getElementById("heap").textContent = `The page's own heap is a kmalloc::Heap: it holds ${held} of ${all} KiB.`;
    });
  }

  /** Opens what an address asks for. */
  follow(fragment) {
    let asked = null;
    notice("");
    try {
      asked = fromFragment(fragment, TABS);
    } catch (error) {
      notice(`The address holds no session that can be read (${error.message}). Here is the first example.`);
    }
    const part = this.parts[asked?.tab ?? "buddy"];
    this.open(part.name, asked?.text === null || asked === null);
    if (asked?.text) part.load(asked.text, asked.position);
  }

  /** Opens a tab; `shows` is false if it gets another script right away. */
  open(name, shows = true) {
    if (this.current && this.current.name !== name) this.current.pause?.();
    for (const tab of TABS) {
      const button = document.getElementById(`tab-${tab}`);
      button.setAttribute("aria-selected", String(tab === name));
      button.tabIndex = tab === name ? 0 : -1;
      document.getElementById(`panel-${tab}`).hidden = tab !== name;
    }
    this.current = this.parts[name];
    if (shows) this.current.show();
  }

  #moveTab(event) {
    const at = TABS.indexOf(event.target.id?.slice(4));
    const next = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: TABS.length - 1 }[event.key];
    if (at < 0 || next === undefined) return;
    event.preventDefault();
    const name = TABS[(next + TABS.length) % TABS.length];
    this.open(name);
    document.getElementById(`tab-${name}`).focus();
  }

  /** Whether a key is Space on a block: it plays, and Enter acts on the block. */
  #isPlayKey(event) {
    return event.key === " " && event.target.matches("[data-at]") && document.getElementById("letters").checked;
  }

  /** Letter keys and Space, outside of fields and, for Space, of other buttons. */
  #key(event) {
    const scene = this.current;
    if (!(scene instanceof Scene) || event.ctrlKey || event.altKey || event.metaKey) return;
    if (!document.getElementById("letters").checked || event.target.closest("input, textarea, select")) return;
    if (event.key === " " && !this.#isPlayKey(event) && event.target.closest("button, summary, a")) return;
    const action = {
      a: () => scene.view.allocate(scene), u: () => scene.undo(), s: () => scene.step(), " ": () => scene.play(),
    }[event.key.toLowerCase()];
    if (!action) return;
    event.preventDefault();
    action();
  }
}

async function start() {
  try {
    const engine = await Engine.start(document.getElementById("module").textContent);
    const page = new Page(engine);
    page.follow(location.hash);
    document.body.dataset.ready = String(Math.round(performance.now()));
  } catch (error) {
    notice(`The allocators could not start: ${error.message}. The page needs a browser of 2023 or later.`);
  }
}

start();
