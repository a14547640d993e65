// Programs that the tests start, and pages in a browser, by the lines that they print.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";

// The maximum number of milliseconds for one line: many programs start at the same time, on few cores.
const TIMEOUT = 120_000;

const running = new Set();
process.once("exit", () => {
  for (const child of running) child.kill("SIGKILL");
});

// What both have: lines, and waiting for one.
class Printed {
  constructor(name) {
    this.name = name;
    this.lines = [];
    this.waiting = new Set();
  }

  print(line) {
    this.lines.push(line);
    for (const check of this.waiting) check();
  }

  // Waits for a line, and returns its match.
  async expect(pattern) {
    const find = () => this.lines.map((line) => line.match(pattern)).find(Boolean);
    let late, check;
    const found = new Promise((resolve, reject) => {
      const fail = (why) => reject(new Error(`${this.name}: ${why}, waiting for ${pattern}, after:\n${this.lines.join("\n")}`));
      late = setTimeout(() => fail("timed out"), TIMEOUT);
      check = () => (find() ? resolve(find()) : this.ended && fail("ended"));
      this.waiting.add(check);
      check();
    });
    try {
      return await found;
    } finally {
      clearTimeout(late);
      this.waiting.delete(check);
    }
  }

  // Asserts that exactly one line matches.
  assertOnce(pattern) {
    const found = this.lines.filter((line) => pattern.test(line));
    assert.equal(found.length, 1, `${this.name}: ${pattern} in:\n${this.lines.join("\n")}`);
  }
}

// A process. Its lines are those of both its outputs.
export class Program extends Printed {
  constructor(name, [command, ...words], { environment = {}, folder } = {}) {
    super(name);
    // The tests' own environment must not configure it.
    const inherited = Object.entries(process.env).filter(([name]) => !/^(TOGGLED|FLAGD)_/.test(name));
    const env = { ...Object.fromEntries(inherited), ...environment };
    this.process = spawn(command, words, { cwd: folder, env, stdio: ["ignore", "pipe", "pipe"] });
    running.add(this.process);
    for (const output of [this.process.stdout, this.process.stderr])
      createInterface(output).on("line", (line) => this.print(line));
    this.end = once(this.process, "close").catch((error) => this.print(String(error))).then(() => {
      this.ended = true;
      running.delete(this.process);
      for (const check of this.waiting) check();
    });
  }

  // Presses Ctrl-C.
  async stop() {
    assert.ok(!this.ended, `${this.name} ended by itself:\n${this.lines.join("\n")}`);
    this.process.kill("SIGINT");
    await this.end;
  }
}

// A page in a browser. Its lines are the items of its list, and the answers that it gets.
export class Page extends Printed {
  static async open(name, browser, address, fill) {
    const opened = new Page(name);
    opened.context = await browser.newContext({ ignoreHTTPSErrors: true });
    const page = await opened.context.newPage();
    page.on("console", (message) => opened.print(`console: ${message.text()}`));
    page.on("pageerror", (error) => opened.print(`error: ${error}`));
    page.on("response", (response) => opened.print(`${response.status()} ${new URL(response.url()).pathname}`));
    await page.exposeFunction("printed", (line) => opened.print(line));
    await page.goto(address);
    await page.evaluate(() => {
      const added = (changes) => changes.flatMap(({ addedNodes }) => [...addedNodes]).forEach((node) => printed(node.textContent));
      new MutationObserver(added).observe(document.querySelector("ol"), { childList: true });
    });
    await fill(page);
    return opened;
  }

  async stop() {
    await this.context.close();
  }
}
