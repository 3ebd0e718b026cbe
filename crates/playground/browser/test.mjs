// Tests the playground in a browser: node test.mjs PAGE.html EXAMPLE.txt CHROMIUM [PICTURES]
//
// EXAMPLE is the worked example of kmem, with the 13 states of the course page. With a folder for PICTURES, each tab is drawn there
// in both widths and both colour schemes.

import assert from "node:assert/strict";
import { readFileSync, statSync } from "node:fs";
import { fileURLToPath, pathToFileURL } from "node:url";
import { launch } from "./page.mjs";
import { lowContrast } from "./contrast.mjs";

const [file, exampleFile, chromium, pictures] = process.argv.slice(2);
const address = pathToFileURL(file).href;
const example = readFileSync(exampleFile, "utf8").split("\n").filter((line) => line.includes("=>") && !line.startsWith("#"))
  .map((line) => line.split("=>").map((part) => part.trim()));
const browser = await launch(chromium);
const wide = { viewport: { width: 1280, height: 900 } };
const phone = { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true };
const sessions = ["#buddy", "#buddy/9/memory+4M+unit+4K+slot/alloc+A+20K/alloc+B+300K/free+A", "#buddy/5/memory+12K/alloc+A+3K",
  "#slab", "#slab/9/objects+64/alloc+300", "#pressure", "#judge", "#judge/0/alloc+A+4/state+4A+8-+4-"];
const tests = [];
const test = (name, options, use) => tests.push({ name, options, use });

test("the page is small, quick, and asks for nothing", wide, async (reader) => {
  assert.ok(statSync(file).size < 400_000, `${statSync(file).size} bytes`);
  const times = [];
  for (let turn = 0; turn < 3; turn += 1) {
    await reader.open();
    times.push(Number(await reader.page.locator("body").getAttribute("data-ready")));
  }
  // The fastest: other programs of the machine take time too.
  assert.ok(Math.min(...times) < 1000, `usable after ${times} ms`);
  assert.equal(await reader.plain(), "4A 2B 2- 8-", "the first example is loaded");
  assert.deepEqual(reader.requests.filter((url) => !url.startsWith("file:") && !url.startsWith("data:") && url !== "about:blank"), []);
});

test("the 13 states of the example, by clicks", wide, async (reader) => {
  await reader.open();
  await reader.click("rewind");
  for (const [requests, state] of example) {
    for (const request of requests.split(";").map((text) => text.trim().split(/\s+/))) {
      if (request[0] === "allocate") {
        const size = /^\d+$/.test(request[2]) ? `${request[2]}B` : request[2];
        assert.equal(await reader.find("[data-do=allocate]").innerText(), `Allocate ${request[1]}`);
        await reader.allocate(size);
      } else if (request[0] === "free") {
        await reader.clickBlock(request[1]);
      }
    }
    assert.equal(await reader.plain(), state, requests);
  }
});

test("the 13 states of the example, by Step and Undo", wide, async (reader) => {
  await reader.open();
  await reader.click("rewind");
  for (const [index, [, state]] of example.entries()) {
    assert.equal(await reader.plain(), state);
    if (index < 12) await reader.click("step");
  }
  assert.ok(await reader.find("[data-do=step]").isDisabled());
  for (const [, state] of example.slice(0, -1).reverse()) {
    await reader.click("undo");
    assert.equal(await reader.plain(), state);
  }
  assert.ok(await reader.find("[data-do=undo]").isDisabled());
});

test("a step after an undo replaces the later ones", wide, async (reader) => {
  await reader.open();
  await reader.click("undo");
  await reader.allocate("8K");
  assert.equal(await reader.plain(), "4A 4- 8B");
  assert.equal(await reader.find(".where").innerText(), "2 of 2");
});

// Mutation that it catches: a block whose state changed gets new elements.
test("a click among 4,000 blocks draws no other block again", wide, async (reader) => {
  const steps = Array.from({ length: 40 }, (_, step) => Array.from({ length: 100 }, (_, at) => `alloc n${100 * step + at} 4K`).join("; "));
  await reader.open(`#buddy/40/${["memory 16M unit 4K", ...steps].join("/").replaceAll(" ", "+")}`);
  const buttons = ".picture button.block";
  const mark = (all) => { for (const button of all) button.dataset.before = button.getAttribute("aria-label"); return all.length; };
  assert.ok(await reader.find(buttons).evaluateAll(mark) > 4000);
  await reader.clickBlock("n1234");
  const state = await reader.find(buttons).evaluateAll((all) => ({
    all: all.length,
    kept: all.filter((button) => button.dataset.before).length,
    changed: all.filter((button) => button.dataset.before && button.dataset.before !== button.getAttribute("aria-label")).length,
  }));
  assert.deepEqual([state.all - state.kept, state.changed], [0, 1], "only the label of one block changed");
  assert.match(await reader.said(), /n1234 is freed/);
});

test("Play does the steps by itself, and stops at the end", wide, async (reader) => {
  await reader.open("#buddy/1/alloc+A+1/alloc+B+1/free+A");
  await reader.click("play");
  await reader.page.waitForFunction(() => document.querySelector("#panel-buddy .where").textContent === "3 of 3", null, { timeout: 6000 });
  await reader.page.waitForFunction(() => document.querySelector("#panel-buddy [data-do=play]").textContent === "Play");
});

test("free memory is allocated where it is clicked, and a size that does not fit is refused", wide, async (reader) => {
  await reader.open("#buddy/0/memory+16K");
  await reader.allocate("1K");
  await reader.find("input[name=size]").fill("4K");
  await reader.find('.block.free[aria-label*="at 8K"]').click();
  assert.equal(await reader.plain(), "1A 1- 2- 4- 4B 4-");
  await reader.find('.block.free[aria-label*="at 2K"]').click();
  assert.match(await reader.said(), /refused/);
  assert.equal(await reader.plain(), "1A 1- 2- 4- 4B 4-");
});

test("everything is reached by the keyboard, and spoken", wide, async (reader) => {
  const { page } = reader;
  await reader.open("#buddy/9/memory+16K/alloc+A+4K/alloc+B+2K");
  for (let presses = 0; presses < 9; presses += 1) {
    await page.keyboard.press("Tab");
    if (await page.evaluate(() => document.activeElement.matches("[data-at]"))) break;
  }
  const focused = () => page.evaluate(() => document.activeElement.getAttribute("aria-label"));
  assert.match(await focused(), /^A 4K at 0/);
  assert.match(await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle), /solid/, "the focus is seen");
  await page.keyboard.press("ArrowRight");
  assert.match(await focused(), /^B 2K at 4K.*Enter frees it/);
  await page.keyboard.press("Enter");
  assert.equal(await reader.plain(), "4A 4- 8-");
  assert.match(await reader.said(), /^B is freed/);
  assert.match(await focused(), /^free, 4K at 4K/, "the focus stays at its place");
  await page.keyboard.press("End");
  assert.match(await focused(), /^free, 8K at 8K/);
  await page.keyboard.press("Enter");
  assert.equal(await reader.plain(), "4A 4- 2C 2- 4-");
  await page.keyboard.press("u");
  assert.equal(await reader.plain(), "4A 4- 8-");
  await page.keyboard.press("s");
  await page.keyboard.press("a");
  assert.equal(await reader.plain(), "4A 4- 2C 2D 4-", "the smallest block that fits");
  await page.keyboard.press("Space");
  assert.equal(await reader.find("[data-do=play]").innerText(), "Pause");
  await page.keyboard.press("Space");
  assert.equal(await reader.find("[data-do=play]").innerText(), "Play");
  const live = reader.find(".said");
  assert.deepEqual([await live.getAttribute("role"), await live.getAttribute("aria-live")], ["status", "polite"]);
  await page.locator("#tab-buddy").focus();
  await page.keyboard.press("ArrowRight");
  assert.equal(await page.locator("#tab-slab").getAttribute("aria-selected"), "true");
  assert.ok(await page.locator("#panel-slab").isVisible());
});

test("letter keys stay out of fields, and can be turned off", wide, async (reader) => {
  await reader.open();
  const before = await reader.plain();
  await reader.find("input[name=size]").fill("");
  await reader.page.keyboard.type("au s");
  assert.equal(await reader.plain(), before);
  await reader.page.locator(".help summary").click();
  await reader.page.locator("#letters").uncheck();
  await reader.page.keyboard.press("u");
  assert.equal(await reader.plain(), before);
});

test("axe finds nothing that keeps anybody out", { ...wide, reducedMotion: "reduce" }, async (reader) => {
  for (const session of sessions) {
    await reader.open(session);
    await reader.page.evaluate(() => document.querySelectorAll("details").forEach((details) => { details.open = true; }));
    await reader.page.addScriptTag({ path: fileURLToPath(import.meta.resolve("axe-core/axe.min.js")) });
    const { violations } = await reader.page.evaluate(() => window.axe.run());
    assert.deepEqual(violations.map(({ id, nodes }) => `${id}: ${nodes[0].html}`), [], session);
  }
});

test("an address holds the whole session", wide, async (reader) => {
  await reader.open();
  await reader.allocate("1K");
  await reader.click("share");
  const shared = await reader.find(".link input").inputValue();
  const state = await reader.plain();
  await reader.open(new URL(shared).hash);
  assert.equal(await reader.plain(), state);
  await reader.click("undo");
  assert.equal(await reader.plain(), "4A 2B 2- 8-");
  await reader.open("#judge/0/alloc+A+4+-%3E+2");
  assert.match(await reader.said(), /Line 1 is wrong \(misaligned\)/);
});

test("addresses that hold nonsense leave a page that works", wide, async (reader) => {
  const nonsense = ["#%", "#buddy/%ff/x", "#nothing/1/x", "#buddy/x/grow", "#buddy/-5/alloc+A+1", "#buddy/1/memory+99999G",
    "#slab/9/objects+1/alloc", "#slab/9/free+7", "#pressure/1e9/dentry+0", `#buddy/3/${"a".repeat(100_000)}`, "#/", "#<script>",
    `#buddy/9999/${"alloc+1/".repeat(3000)}`, "#judge/0/%00%01", "#buddy/2/alloc+A+1/free+A;free+A"];
  for (const fragment of nonsense) {
    await reader.open(fragment);
    const text = await reader.page.evaluate(() => [...document.querySelectorAll("#notice, .complaint, .said")]
      .filter((element) => element.checkVisibility()).map((element) => element.textContent).join(" ").trim());
    assert.notEqual(text, "", `a message for ${fragment.slice(0, 40)}`);
    await reader.page.locator("#tab-buddy").click();
    await reader.find("[data-do=example]").selectOption("0");
    assert.equal(await reader.plain(), "4A 2B 2- 8-", fragment.slice(0, 40));
  }
});

test("what is typed wrongly is said, and changes nothing", wide, async (reader) => {
  await reader.open();
  for (const size of ["lots", "-1", "0", "1e9", "99999999999999", "3 at", "; free A", "1K -> 3"]) {
    await reader.allocate(size);
    assert.equal(await reader.plain(), "4A 2B 2- 8-", size);
    assert.ok(await reader.find(".complaint").isVisible(), size);
  }
  await reader.allocate("99G");
  assert.match(await reader.said(), /more than|refused/);
  await reader.find(".settings summary").click();
  await reader.find("input[name=memory]").fill("999G");
  await reader.click("restart");
  assert.match(await reader.find(".complaint").innerText(), /too much/);
  await reader.find("input[name=memory]").fill("64K");
  await reader.click("restart");
  assert.equal(await reader.plain(), "64-");
});

test("allocators that stop are started again", wide, async (reader) => {
  await reader.page.addInitScript(() => {
    const instantiate = WebAssembly.instantiate;
    let calls = 0;
    WebAssembly.instantiate = async (...given) => {
      const { exports } = await instantiate(...given);
      const run = () => {
        calls += 1;
        if (calls === 2) throw new WebAssembly.RuntimeError("unreachable");
        return exports.run();
      };
      return { exports: { ...exports, run } };
    };
  });
  await reader.open();
  await reader.click("step");
  assert.match(await reader.find(".complaint").innerText(), /started again/);
  await reader.click("rewind");
  assert.equal(await reader.plain(), "16-");
});

test("a slab fills with colours, and objects are freed by clicks", wide, async (reader) => {
  await reader.open("#slab/0/objects+640");
  const colours = async () => (await reader.find(".slab-name").allInnerTexts()).filter((text) => text !== "sets");
  for (let clicks = 0; clicks < 3; clicks += 1) await reader.click("ten");
  assert.equal(new Set(await colours()).size, 4, String(await colours()));
  await reader.find('.object[aria-label^="object 7,"]').click();
  assert.match(await reader.said(), /frees object 7/);
  assert.equal(await reader.find(".object.taken").count(), 29);
  await reader.find("select[name=cpu]").selectOption("1");
  await reader.click("all");
  assert.match(await reader.said(), /CPU 1 frees 29 objects/);
  await reader.click("shrink");
  assert.match(await reader.find(".picture").innerText(), /no slab yet/);
  await reader.find("[data-do=example]").selectOption("1");
  assert.equal(new Set(await colours()).size, 1);
  assert.ok(await reader.find(".set.full").count() > 0, "without colours, sets overflow");
  await reader.find("[data-do=example]").selectOption("0");
  assert.equal(await reader.find(".set.full").count(), 0, "with colours, none does");
});

test("pressure moves pages from one cache to the other", wide, async (reader) => {
  await reader.open("#pressure/0/shrink");
  await reader.find("input[name=count]").fill("1000");
  await reader.click("allocate");
  await reader.click("allocate");
  assert.match(await reader.said(), /memory is out/);
  assert.match(await reader.find(".gauge-note").innerText(), /pressure: min/);
  await reader.click("free-dentry");
  await reader.find("input[name=count]").fill("60");
  await reader.click("inode");
  assert.match(await reader.said(), /released \d+ empty slabs? of dentries/);
});

test("the judge shows the wrong line and both states", wide, async (reader) => {
  await reader.open("#judge");
  const words = ["overlap", "not merged", "refused without need", "All is right", "All is right"];
  for (const [index, word] of words.entries()) {
    await reader.find("[data-do=example]").selectOption(String(index));
    assert.match(await reader.said(), new RegExp(word));
  }
  await reader.page.locator("#judge-text").fill("alloc A 3 -> 0\nalloc B 2 -> 5");
  await reader.click("judge");
  assert.match(await reader.said(), /Line 2 is wrong \(misaligned\)/);
  assert.deepEqual(await reader.find(".result h2").allInnerTexts(), ["Your state", "The right state"]);
  assert.deepEqual(await reader.find(".plain code").allInnerTexts(), ["4A 4- 8-", "4A 2B 2- 8-"]);
  assert.equal(await reader.find(".mark").count(), 1);
  await reader.put("#judge-text", "alloc A 1 -> 0\nfree A -> ok\n".repeat(5000) + "free A -> ok");
  const begun = Date.now();
  await reader.click("judge");
  assert.match(await reader.said(), /Line 10001 is wrong \(double free\)/);
  assert.ok(Date.now() - begun < 5000, "10,000 lines are judged in time");
  await reader.put("#judge-text", "alloc 1\n".repeat(30_000));
  await reader.click("judge");
  assert.match(await reader.said(), /at most 20000 lines/);
});

for (const [width, device] of [["1280", wide], ["390", phone]]) {
  for (const colorScheme of ["light", "dark"]) {
    test(`layout and contrast at ${width} pixels, ${colorScheme}`, { ...device, colorScheme, reducedMotion: "reduce" }, async (reader) => {
      for (const [index, session] of sessions.entries()) {
        await reader.open(session);
        await reader.page.evaluate(() => document.querySelectorAll("details").forEach((details) => { details.open = true; }));
        const over = await reader.page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
        assert.equal(over, 0, `${session} scrolls sideways by ${over} pixels`);
        assert.deepEqual(await reader.page.evaluate(lowContrast), [], session);
        assert.equal(await reader.page.evaluate(() => document.getAnimations().length), 0, "motion is reduced");
        if (pictures) {
          await reader.page.screenshot({ path: `${pictures}/${index}-${width}-${colorScheme}.png`, fullPage: true });
        }
      }
    });
  }
}

let failed = 0;

async function run({ name, options, use }) {
  const begun = Date.now();
  try {
    const reader = await browser.window(options, address, use);
    assert.deepEqual(reader.errors, [], "errors of the page");
    console.log(`ok: ${name} (${Date.now() - begun} ms)`);
  } catch (error) {
    failed += 1;
    console.error(`FAILED: ${name}\n${error.stack.slice(0, 1500)}`);
  }
}

/** Runs the tests that are left, one after the other. */
async function work(left) {
  for (let next = left.shift(); next; next = left.shift()) await run(next);
}

// The first test measures a time, so it runs alone.
const left = tests.slice(1);
await run(tests[0]);
await Promise.all([work(left), work(left), work(left)]);
await browser.close();
console.log(`${tests.length - failed} of ${tests.length} passed`);
process.exit(failed === 0 ? 0 : 1);
