// OFREP's OpenFeature providers: one sends an HTTP request per value, the other polls all values.

import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";

import { packages } from "./paths.mjs";
import { Application, closeProviders, ofrep, waitUntil } from "./applications.mjs";
import { Server, temporaryFolder } from "./server.mjs";

const web = packages("@openfeature/web-sdk");
const { OFREPWebProvider } = packages("@openfeature/ofrep-web-provider");

let server;
let token;
let flags = 0;

// Creates a disabled flag.
async function flag() {
  const key = `flag-${++flags}`;
  await server.admin.toggle("CreateFeatureFlag", { key, name: key });
  return key;
}

const flip = (key) => server.admin.toggle("ToggleFeatureFlag", { key });

before(async () => {
  // The setting for anonymous flagd reads does not open OFREP.
  server = await Server.start(temporaryFolder(), { environment: { TOGGLED_ANONYMOUS_FLAGD_ENVIRONMENTS: "default" } });
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

test("a missing or archived flag reads as the default with an error", async () => {
  const archived = await flag();
  await server.admin.toggle("ArchiveFeatureFlag", { key: archived });
  const application = await Application.with(ofrep(server.address, token));

  assert.ok(await application.isMissing("missing"));
  // This provider does not know answers without a value, as flagd sends them too.
  const { value, errorCode } = await application.details(archived, true);
  assert.deepEqual([value, errorCode], [true, "GENERAL"]);
});

test("reading another type gives the default", async () => {
  const key = await flag();
  const { client } = await Application.with(ofrep(server.address, token));

  for (const [kind, otherwise] of [["String", "none"], ["Number", 7], ["Object", { none: true }]]) {
    const details = await client[`get${kind}Details`](key, otherwise);
    assert.deepEqual([details.value, details.errorCode], [otherwise, "TYPE_MISMATCH"]);
  }
});

test("an invalid token gives the default", async () => {
  const key = await flag();
  for (const wrong of [undefined, "toggled_wrong"]) {
    const application = await Application.with(ofrep(server.address, wrong));
    const details = await application.details(key, true);
    assert.deepEqual([details.value, details.errorCode], [true, "GENERAL"]);
  }
});

test("a lost server gives the default", async () => {
  const key = await flag();
  const lost = await Server.start(temporaryFolder());
  await lost.stop();
  // Ready without a contact: the error is in the details.
  const application = await Application.with(ofrep(lost.address, token));
  const details = await application.details(key, true);
  assert.deepEqual([details.value, details.errorCode], [true, "GENERAL"]);
});

// The provider that reads all values at once. It is made for browsers; here it keeps its cache in memory.
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

test("all values are polled, and sent only when they changed", async () => {
  const [key, archived] = [await flag(), await flag()];
  const answers = [];
  await web.OpenFeature.setProviderAndWait(bulk(token, answers));
  const client = web.OpenFeature.getClient();
  const changes = [];
  client.addHandler(web.ProviderEvents.ConfigurationChanged, (event) => changes.push(event.flagsChanged));
  assert.deepEqual([client.getBooleanValue(key, true), client.getBooleanDetails(key, true).variant], [false, "off"]);
  assert.equal(client.getBooleanDetails("missing", true).errorCode, "FLAG_NOT_FOUND");
  assert.equal(client.getStringDetails(key, "none").errorCode, "TYPE_MISMATCH");

  await waitUntil(() => answers.length > 2, "more polls");
  assert.deepEqual(answers.slice(0, 3), [200, 304, 304]);
  assert.deepEqual(changes, []);

  await flip(key);
  await waitUntil(() => changes.length > 0, "the change event");
  assert.deepEqual(changes, [[key]]);
  assert.equal(client.getBooleanValue(key, false), true);

  await server.admin.toggle("ArchiveFeatureFlag", { key: archived });
  await waitUntil(() => changes.length > 1, "the change event");
  assert.deepEqual(changes[1], [archived]);
  for (const otherwise of [true, false]) {
    const { value, reason, errorCode } = client.getBooleanDetails(archived, otherwise);
    assert.deepEqual([value, reason, errorCode], [otherwise, "DISABLED", undefined]);
  }
});

test("an invalid token is refused for all values", async () => {
  for (const wrong of [undefined, "toggled_wrong"]) {
    await assert.rejects(web.OpenFeature.setProviderAndWait(bulk(wrong)), { code: "PROVIDER_FATAL" });
  }
});
