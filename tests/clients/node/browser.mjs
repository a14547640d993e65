// Debian's Chromium without a window, and a server for its pages.

import fs from "node:fs";
import http from "node:http";
import path from "node:path";

import { packages } from "./paths.mjs";

const { chromium } = packages("playwright-core");

const TYPES = { ".html": "text/html", ".js": "text/javascript" };

// Starts the browser, with a new profile. Without these arguments it looks for updates, and cannot run as root.
export function launch() {
  const quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"];
  const args = ["--no-sandbox", "--disable-gpu", "--disable-quic", ...quiet];
  // A start may take long while many programs do.
  return chromium.launch({ executablePath: "/usr/bin/chromium", args, timeout: 120_000 });
}

// Serves the files of a folder, and returns the origin of its pages.
export async function serve(folder) {
  const server = http.createServer((request, response) => {
    const name = path.basename(new URL(request.url, "http://page").pathname);
    const file = path.join(folder, name);
    if (!fs.existsSync(file)) return response.writeHead(404).end();
    response.writeHead(200, { "content-type": TYPES[path.extname(name)] }).end(fs.readFileSync(file));
  });
  await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
  return { origin: `http://127.0.0.1:${server.address().port}`, close: () => server.close() };
}
