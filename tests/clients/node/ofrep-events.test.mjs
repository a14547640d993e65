// OFREP's web provider as it comes: it does not poll, and learns of changes by server-sent events. Node has no EventSource of its own.

import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";

import { waitUntil } from "./applications.mjs";
import { packages } from "./paths.mjs";
import { Server, temporaryFolder } from "./server.mjs";

const { EventSource } = packages("eventsource");
const web = packages("@openfeature/web-sdk");
const { OFREPWebProvider } = packages("@openfeature/ofrep-web-provider");

const folder = temporaryFolder();
let server;
let flags = 0;

// The statuses of requests for events.
const streams = [];
globalThis.EventSource = class extends EventSource {
  constructor(url) {
    super(url, {
      fetch: async (target, init) => {
        const answer = await fetch(target, init);
        streams.push(answer.status);
        return answer;
      },
    });
  }
};

before(async () => {
  server = await Server.start(folder);
});
after(() => server.stop());
afterEach(() => web.OpenFeature.clearProviders());

async function flag() {
  const key = `flag-${++flags}`;
  await server.admin.toggle("CreateFeatureFlag", { key, name: key });
  return key;
}

const flip = (key) => server.admin.toggle("ToggleFeatureFlag", { key });

// An application in a browser: its flags, the events of its provider, and the requests for all flags.
async function application(token) {
  const [changes, requests] = [[], []];
  streams.length = 0;
  const provider = new OFREPWebProvider({
    baseUrl: `http://${server.address}`,
    headers: [["authorization", `Bearer ${token}`]],
    cacheMode: "disabled",
    fetchImplementation: async (request, init) => {
      const { search } = new URL(request.url);
      const answer = await fetch(request, init);
      requests.push({ search, status: answer.status });
      return answer;
    },
  });
  await web.OpenFeature.setProviderAndWait(provider);
  const client = web.OpenFeature.getClient();
  client.addHandler(web.ProviderEvents.ConfigurationChanged, (event) => changes.push(event.flagsChanged));
  await waitUntil(() => streams.length > 0, "the stream of events");
  return { client, changes, requests };
}

test("a flip arrives without polling", async () => {
  const key = await flag();
  const { client, changes, requests } = await application(server.token);
  assert.equal(client.getBooleanValue(key, true), false);
  for (const [number, value] of [true, false, true].entries()) {
    await flip(key);
    await waitUntil(() => changes.length > number, "the change event");
    assert.deepEqual([changes[number], client.getBooleanValue(key, !value)], [[key], value]);
  }
  // One request for each flip: it repeats what the event announced.
  assert.deepEqual(requests.map(({ status }) => status), [200, 200, 200, 200]);
  assert.equal(requests[0].search, "");
  for (const { search } of requests.slice(1)) {
    const query = new URLSearchParams(search);
    assert.match(query.get("flagConfigEtag"), /^default-/);
    assert.ok(Math.abs(query.get("flagConfigLastModified") - Date.now() / 1000) < 60);
  }
  assert.deepEqual(streams, [200]);
});

test("a flip during a restart is not missed", async () => {
  const key = await flag();
  const { client, changes } = await application(server.token);
  await server.stop();
  server = await Server.start(folder, { listen: server.address });
  await flip(key);
  await waitUntil(() => client.getBooleanValue(key, false), "the flip");
  assert.deepEqual(changes, [[key]]);
  await flip(key);
  await waitUntil(() => !client.getBooleanValue(key, true), "the next flip");
});

test("a revoked token ends the stream for good", async () => {
  const secret = await server.admin.readerToken();
  const key = await flag();
  const { client, requests } = await application(secret);
  const { tokens } = await server.admin.access("ListTokens", { user_id: await userOf("reader@example.com") });
  await server.admin.access("RevokeToken", { id: tokens[0].id });
  await waitUntil(() => streams.includes(204), "the end of the stream");
  await waitUntil(() => requests.some(({ status }) => status === 401), "the provider to notice");
  await flip(key);
  // It keeps what it knew, asks for flags with longer and longer pauses, and for no events.
  assert.equal(client.getBooleanValue(key, true), false);
  assert.deepEqual(streams, [200, 204]);
});

async function userOf(email) {
  const { users } = await server.admin.access("ListUsers", {});
  return users.find((user) => user.email === email).id;
}
