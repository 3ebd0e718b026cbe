// The allocators: a WebAssembly module that takes a command and returns JSON.

/** Unpacks the module, which is gzip in base64. */
async function unpack(base64) {
  const packed = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return WebAssembly.compile(await new Response(stream).arrayBuffer());
}

export class Engine {
  #module;
  #exports = null;

  static async start(base64) {
    const engine = new Engine();
    engine.#module = await unpack(base64.trim());
    await engine.#restart();
    return engine;
  }

  async #restart() {
    this.#exports = null;
    const instance = await WebAssembly.instantiate(this.#module);
    this.#exports = instance.exports;
  }

  /** Performs a command: its name and arguments, then the script. */
  ask(head, script) {
    const wasm = this.#exports;
    if (!wasm) throw new Error("The allocators are starting. Try again.");
    const command = new TextEncoder().encode(`${head}\n${script}`);
    try {
      const address = wasm.input(command.length);
      new Uint8Array(wasm.memory.buffer, address, command.length).set(command);
      const length = wasm.run();
      return JSON.parse(this.#text(wasm.output(), length));
    } catch (error) {
      const why = this.#panicMessage() || String(error);
      this.#restart();
      throw new Error(`The allocators stopped and were started again: ${why}`);
    }
  }

  #text(address, length) {
    return new TextDecoder().decode(new Uint8Array(this.#exports.memory.buffer, address, length));
  }

  #panicMessage() {
    const text = this.#text(this.#exports.message(), 256);
    return text.slice(0, text.indexOf("\0"));
  }

  /** Returns the KiB that the heap of the module holds, and has. */
  heap() {
    const both = this.#exports?.heap() >>> 0;
    return { held: both >>> 16, all: both & 0xffff };
  }
}
