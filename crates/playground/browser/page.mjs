// Opens the playground in a browser, and helps to use it as a reader does.

import { chromium } from "playwright-core";

/** The page as a reader uses it. */
export class Reader {
  constructor(page, address) {
    this.page = page;
    this.address = address;
    this.errors = [];
    this.requests = [];
    page.on("pageerror", (error) => this.errors.push(error.message));
    page.on("console", (message) => message.type() === "error" && this.errors.push(message.text()));
    page.on("request", (request) => this.requests.push(request.url()));
  }

  /** Opens the page at a fragment, and waits until it can be used. */
  async open(fragment = "") {
    await this.page.goto("about:blank");
    await this.page.goto(this.address + fragment);
    await this.page.waitForSelector("body[data-ready]");
  }

  /** Returns an element of the tab that is shown. */
  find(selector) {
    return this.page.locator(`[role=tabpanel]:not([hidden]) ${selector}`);
  }

  async click(name) {
    await this.find(`[data-do=${name}]`).click();
  }

  /** Returns the state in the notation of the course page. */
  async plain() {
    return this.find(".plain code").first().innerText();
  }

  async said() {
    return this.find(".said").innerText();
  }

  /** Allocates a block of a size by the field and the button. */
  async allocate(size) {
    await this.find("input[name=size]").fill(size);
    await this.click("allocate");
  }

  /** Puts a long text into a field at once. */
  async put(selector, text) {
    await this.page.locator(selector).evaluate((field, value) => { field.value = value; }, text);
  }

  /** Clicks the block of that name. */
  async clickBlock(name) {
    await this.find(`.block.taken[aria-label^="${name} "]`).click();
  }
}

/** Starts the browser. */
export async function launch(path) {
  const browser = await chromium.launch({ executablePath: path, args: ["--no-sandbox"] });
  return {
    close: () => browser.close(),
    /** Opens a window of its own, and hands its reader to `use`. */
    async window(options, address, use) {
      const context = await browser.newContext(options);
      const reader = new Reader(await context.newPage(), address);
      reader.page.setDefaultTimeout(10_000);
      try {
        await use(reader);
      } finally {
        await context.close();
      }
      return reader;
    },
  };
}
