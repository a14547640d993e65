// OFREP's OpenFeature providers: one HTTP request a value, and one for all values that is repeated.

import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";

import { packages } from "./places.mjs";
import { Application, closeProviders, ofrep, until } from "./reading.mjs";
import { Server, temporaryFolder } from "./server.mjs";

const web = packages("@openfeature/web-sdk");
const { OFREPWebProvider } = packages("@openfeature/ofrep-web-provider");

let server;
let token;
let flags = 0;

// A new flag, off.
async function flag() {
  const key = `flag-${++flags}`;
  await server.admin.toggle("CreateFeatureFlag", { key, name: key });
  return key;
}

const flip = (key) => server.admin.toggle("ToggleFeatureFlag", { key });

before(async () => {
  // The setting for flagd opens nothing here.
  server = await Server.start(temporaryFolder(), { environment: { TOGGLED_ANONYMOUS_FLAGD_READS: "true" } });
  token = await server.admin.readerToken();
});
after(() => server.stop());
afterEach(async () => {
  await closeProviders();
  await web.OpenFeature.clearProviders();
});

test("a flip is in the next answer", async () => {
  const key = await flag();
  const application = await Application.with(ofrep(server.address, token));

  for (const [value, variant] of [[false, "off"], [true, "on"], [false, "off"]]) {
    const details = await application.details(key, !value);
    assert.deepEqual([details.value, details.variant, details.reason], [value, variant, "STATIC"]);
    await flip(key);
  }
});

test("a flag that is missing or archived has the caller's default", async () => {
  const archived = await flag();
  await server.admin.toggle("ArchiveFeatureFlag", { key: archived });
  const application = await Application.with(ofrep(server.address, token));

  assert.ok(await application.misses("missing"));
  assert.ok(await application.misses(archived));
});

test("a toggle read as something else has the caller's default", async () => {
  const key = await flag();
  const { client } = await Application.with(ofrep(server.address, token));

  for (const [kind, otherwise] of [["String", "none"], ["Number", 7], ["Object", { none: true }]]) {
    const details = await client[`get${kind}Details`](key, otherwise);
    assert.deepEqual([details.value, details.errorCode], [otherwise, "TYPE_MISMATCH"]);
  }
});

test("without a token that works there is no value", async () => {
  const key = await flag();
  for (const wrong of [undefined, "toggled_wrong"]) {
    const application = await Application.with(ofrep(server.address, wrong));
    const details = await application.details(key, true);
    assert.deepEqual([details.value, details.errorCode], [true, "GENERAL"]);
  }
});

// What asks for all values at once; it is made for browsers, and keeps what it knows in memory here.
function bulk(bearer, answers = []) {
  return new OFREPWebProvider({
    baseUrl: `http://${server.address}`,
    headers: bearer ? [["authorization", `Bearer ${bearer}`]] : [],
    pollInterval: 50,
    cacheMode: "disabled",
    fetchImplementation: async (request) => {
      const answer = await fetch(request);
      answers.push(answer.status);
      return answer;
    },
  });
}

test("all values are asked for again and again, and sent when there are others", async () => {
  const [key, archived] = [await flag(), await flag()];
  const answers = [];
  await web.OpenFeature.setProviderAndWait(bulk(token, answers));
  const client = web.OpenFeature.getClient();
  const changes = [];
  client.addHandler(web.ProviderEvents.ConfigurationChanged, (event) => changes.push(event.flagsChanged));
  assert.deepEqual([client.getBooleanValue(key, true), client.getBooleanDetails(key, true).variant], [false, "off"]);
  assert.equal(client.getBooleanDetails("missing", true).errorCode, "FLAG_NOT_FOUND");
  assert.equal(client.getStringDetails(key, "none").errorCode, "TYPE_MISMATCH");

  await until(() => answers.length > 2, "some more questions");
  assert.deepEqual(answers.slice(0, 3), [200, 304, 304]);
  assert.deepEqual(changes, []);

  await flip(key);
  await until(() => changes.length > 0, "the change event");
  assert.deepEqual(changes, [[key]]);
  assert.equal(client.getBooleanValue(key, false), true);

  await server.admin.toggle("ArchiveFeatureFlag", { key: archived });
  await until(() => changes.length > 1, "the change event");
  assert.deepEqual(changes[1], [archived]);
  assert.equal(client.getBooleanDetails(archived, true).errorCode, "FLAG_NOT_FOUND");
});

test("without a token that works all values are refused", async () => {
  for (const wrong of [undefined, "toggled_wrong"]) {
    await assert.rejects(web.OpenFeature.setProviderAndWait(bulk(wrong)), { code: "PROVIDER_FATAL" });
  }
});
