// The programs of examples/, all at the same time, against one server with TLS and a token, which restarts twice.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import { after, before, test } from "node:test";

import { launch, serve } from "./browser.mjs";
import { certificates } from "./certificates.mjs";
import { BINARY, CONNECT_FLAGD, EXAMPLES, PYTHON, TESTS } from "./paths.mjs";
import { Page, Program } from "./programs.mjs";
import { Server, temporaryFolder } from "./server.mjs";

const built = (name) => path.join(path.dirname(BINARY), name);
const java = (name) => ["java", "-cp", "target/classes:target/lib/*", `com.example.${name}`];

// How each language runs its programs, in its folder, and the modes of OpenFeature's providers.
const LANGUAGES = {
  python: { flags: [PYTHON, "flags.py"], evaluate: [PYTHON, "evaluate.py"], modes: ["in-process", "rpc", "ofrep"] },
  node: { flags: ["node", "dist/flags.js"], evaluate: ["node", "dist/evaluate.js"], modes: ["in-process", "rpc", "ofrep"] },
  rust: { flags: [built("flags")], evaluate: [built("evaluate")], modes: ["in-process", "rpc"] },
  // OpenFeature's provider in its RPC mode, without the provider.
  go: { flags: ["./flags"], evaluate: [CONNECT_FLAGD], modes: ["rpc"], needs: "go" },
  java: { flags: java("Flags"), evaluate: java("Evaluate"), modes: ["in-process", "rpc", "ofrep"], needs: "mvn" },
};

const folder = temporaryFolder();
let options, server, token, pages, browser;
const programs = [];

// Whether the tools of a language are installed. If not, prints what is left out, or fails if everything is demanded.
function isInstalled([language, { needs }]) {
  if (!needs || process.env.PATH.split(path.delimiter).some((entry) => fs.existsSync(path.join(entry, needs)))) return true;
  assert.notEqual(process.env.REQUIRE_CLIENTS, "all", `${needs} is not installed, and REQUIRE_CLIENTS=all demands it`);
  console.log(`no ${needs}: the example in ${language} is left out`);
  return false;
}

// The variables of the programs. Some OFREP providers find a CA only in their platform's way.
function environment() {
  return {
    TOGGLED_ADDR: `https://${server.address}`,
    TOGGLED_CA_CERTIFICATE: options.certificates.authority,
    TOGGLED_TOKEN: token,
    NODE_EXTRA_CA_CERTS: options.certificates.authority,
    REQUESTS_CA_BUNDLE: options.certificates.authority,
    JAVA_TOOL_OPTIONS: `-Djavax.net.ssl.trustStore=${path.join(folder, "ca.p12")} -Djavax.net.ssl.trustStorePassword=changeit`,
    // The providers' default of 0.5 s is too short while all start.
    FLAGD_DEADLINE_MS: "60000",
  };
}

function start(name, [command, ...words], language) {
  const program = new Program(name, [command, ...words], { environment: environment(), folder: path.join(EXAMPLES, language) });
  programs.push(program);
  return program;
}

// Opens a page, and fills its form.
async function open(name, key, secret = token) {
  const page = await Page.open(`${name} browser`, browser, `${pages.origin}/${name}.html`, async (page) => {
    await page.getByLabel("Server").fill(`https://${server.address}`);
    await page.getByLabel("Token").fill(secret);
    await page.getByLabel("Flag").fill(key);
    await page.getByRole("button").click();
  });
  programs.push(page);
  return page;
}

async function create(key, status) {
  await server.admin.toggle("CreateFeatureFlag", { key, name: key, status: `FEATURE_FLAG_STATUS_${status}` });
}

// Restarts the server. While it is down, another one on its database flips the flags, at an address that the programs do not know.
async function restart(keys) {
  await server.stop();
  server = await Server.start(folder, { ...options, listen: "127.0.0.2:0" });
  await everywhere(keys, (key) => server.admin.toggle("ToggleFeatureFlag", { key }));
  await server.stop();
  server = await Server.start(folder, options);
}

// Java finds the CA of an OFREP server only in a key store.
function trustInJava() {
  const store = ["-keystore", path.join(folder, "ca.p12"), "-storepass", "changeit"];
  execFileSync("keytool", ["-importcert", "-noprompt", "-file", options.certificates.authority, ...store], { stdio: "pipe" });
}

const everywhere = (programs, act) => Promise.all(programs.map(act));

before(async () => {
  pages = await serve(path.join(EXAMPLES, "browser", "www"));
  const anyone = { TOGGLED_ANONYMOUS_FLAGD_ENVIRONMENTS: "default", TOGGLED_CORS_ORIGIN: pages.origin };
  // A port of this address stays free while the server is down.
  options = { listen: "127.0.0.2:0", certificates: certificates(folder, "IP:127.0.0.2"), environment: anyone };
  server = await Server.start(folder, options);
  options.listen = server.address;
  token = server.token;
  browser = await launch();
});
after(async () => {
  await browser?.close();
  pages?.close();
  await server?.stop();
});

// Every program that flips, and every one that evaluates, each with a flag of its own.
function list() {
  const languages = Object.entries(LANGUAGES).filter(isInstalled);
  const flips = languages.map(([language, { flags }]) => ({ language, key: language, command: [...flags, language] }));
  const evaluations = languages.flatMap(([language, { evaluate, modes, missing }]) =>
    modes.map((mode) => ({ language, key: `${language}-${mode}`, command: [...evaluate, mode], missing })),
  );
  return { flips, evaluations };
}

// The flip, the read and both streams show the same revision.
async function showsFlip({ key, program }) {
  const [, revision] = await program.expect(RegExp(`^flipped ${key}: enabled at revision (\\d+)$`));
  await program.expect(RegExp(`^read ${key}: enabled at revision ${revision}$`));
  await program.expect(RegExp(`^watched ${key}: enabled at revision ${revision}$`));
  await program.expect(RegExp(`^audited ${key}: flag_created at revision \\d+ by admin@localhost$`));
  await program.expect(RegExp(`^audited ${key}: toggle_enabled at revision ${revision} by admin@localhost$`));
}

// Both streams show the second flip too, and nothing twice.
async function showsNextFlip({ key, program }) {
  const [, revision] = await program.expect(RegExp(`^watched ${key}: disabled at revision (\\d+)$`));
  await program.expect(RegExp(`^audited ${key}: toggle_disabled at revision ${revision} by admin@localhost$`));
  for (const line of ["flipped", "read", "watched"]) program.assertOnce(RegExp(`^${line} ${key}: enabled`));
  for (const action of ["flag_created", "toggle_enabled", "toggle_disabled"]) program.assertOnce(RegExp(`^audited ${key}: ${action}`));
  program.assertOnce(RegExp(`^watched ${key}: disabled`));
}

test("every example works over restarts", async () => {
  const { flips, evaluations } = list();
  if (flips.some(({ language }) => language === "java")) trustInJava();
  await everywhere([...flips, { key: "browser" }], ({ key }) => create(key, "DISABLED"));
  await everywhere([...evaluations, { key: "browser-ofrep" }], ({ key }) => create(key, "ENABLED"));

  // Providers need a first contact.
  for (const one of evaluations) one.program = start(`evaluate ${one.key}`, [...one.command, one.key], one.language);
  evaluations.push({ key: "browser-ofrep", program: await open("evaluate", "browser-ofrep") });
  await everywhere(evaluations, ({ program, key }) => program.expect(RegExp(`^${key}: on$`)));

  // The flips are retried until the server is there.
  await server.stop();
  for (const one of flips) one.program = start(`flags ${one.key}`, one.command, one.language);
  flips.push({ key: "browser", program: await open("flags", "browser") });
  await everywhere(flips, ({ program }) => program.expect(/retrying$/));
  server = await Server.start(folder, options);
  await everywhere(flips, showsFlip);

  await restart([...flips, ...evaluations].map(({ key }) => key));
  await everywhere(flips, showsNextFlip);
  await everywhere(evaluations, ({ program, key }) => program.expect(RegExp(`^${key}: off$`)));
  await everywhere(programs.splice(0), (program) => program.stop());
});

test("a page gets flips until its token is revoked", async () => {
  await create("page", "ENABLED");
  const page = await open("evaluate", "page", await server.admin.readerToken());
  await page.expect(/^page: on$/);
  await page.expect(/^200 .*events$/);
  await server.admin.toggle("ToggleFeatureFlag", { key: "page" });
  await page.expect(/^page: off$/);

  const { users } = await server.admin.access("ListUsers", {});
  const { tokens } = await server.admin.access("ListTokens", { user_id: users.find(({ email }) => email === "reader@example.com").id });
  await server.admin.access("RevokeToken", { id: tokens[0].id });
  // The browser asks for the stream once more, and the provider for the flags. Both are refused, and the page keeps its last values.
  await page.expect(/^204 .*events$/);
  await page.expect(/^401 .*flags$/);
  page.assertOnce(/^page: off$/);
  page.assertOnce(/^204 /);
  await page.stop();
});

test("Java's provider asks for a missing flag once", async (context) => {
  if (!isInstalled(["java", LANGUAGES.java])) return context.skip("no Maven");
  const program = start("once", ["java", "-cp", "target/lib/*", path.join(TESTS, "java", "EvaluateOnce.java"), "missing"], "java");
  await program.expect(/^missing: false FLAG_NOT_FOUND$/);
  // It repeats failed calls, for longer than its own deadline, unless the answer says that it does not help.
  const asked = fs.readFileSync(path.join(folder, "stderr.log"), "utf8").match(/ResolveBoolean","code":"NOT_FOUND"/g);
  assert.equal(asked.length, 1);
});
