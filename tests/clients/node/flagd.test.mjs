// flagd's OpenFeature provider in both its modes, against a server with anonymous reads.

import assert from "node:assert/strict";
import { after, afterEach, before, describe, test } from "node:test";

import { packages } from "./paths.mjs";
import { Proxy } from "./proxy.mjs";
import { Application, MODES, closeProviders, flagd, waitUntil } from "./applications.mjs";
import { Server, temporaryFolder } from "./server.mjs";

const { OpenFeature } = packages("@openfeature/server-sdk");

const open = { environment: { TOGGLED_ANONYMOUS_FLAGD_ENVIRONMENTS: "default" } };

let server;
let flags = 0;

// Creates a disabled flag.
async function flag() {
  const key = `flag-${++flags}`;
  await server.admin.toggle("CreateFeatureFlag", { key, name: key });
  return key;
}

const flip = (key, { admin } = server) => admin.toggle("ToggleFeatureFlag", { key });
const archive = (key, { admin } = server) => admin.toggle("ArchiveFeatureFlag", { key });

// An application that has received the first event, with all flags. Later events are about changes.
async function reading(mode, address = server.address) {
  const application = await Application.with(flagd(address, mode));
  if (mode === "rpc") await waitUntil(() => application.changes.length > 0, "the first event with all flags");
  return application;
}

before(async () => {
  server = await Server.start(temporaryFolder(), open);
});
after(() => server.stop());
afterEach(closeProviders);

for (const mode of MODES) {
  describe(mode, () => {
    test("a flag is read with its variant", async () => {
      const [off, on] = [await flag(), await flag()];
      await flip(on);
      const application = await reading(mode);

      for (const [key, value, variant] of [[off, false, "off"], [on, true, "on"]]) {
        const details = await application.details(key, !value);
        assert.deepEqual([details.value, details.variant, details.reason], [value, variant, "STATIC"]);
        assert.equal(details.errorCode, undefined);
        assert.equal(details.flagMetadata.flagSetId, "default");
        assert.match(details.flagMetadata.version, /^\d+$/);
      }
    });

    test("a missing flag is an error, and an archived one is disabled", async () => {
      const archived = await flag();
      await archive(archived);
      const application = await reading(mode);

      assert.ok(await application.isMissing("missing"));
      assert.ok(await application.isArchived(archived));
    });

    test("reading another type gives the default", async () => {
      const key = await flag();
      const { client } = await reading(mode);

      for (const [kind, otherwise] of [["String", "none"], ["Number", 7], ["Object", { none: true }]]) {
        const details = await client[`get${kind}Details`](key, otherwise);
        assert.deepEqual([details.value, details.errorCode], [otherwise, "TYPE_MISMATCH"]);
      }
    });

    test("flips and archiving send events and are read", async () => {
      const key = await flag();
      const application = await reading(mode);

      for (const expected of [true, false, true]) {
        // Read first, so that the value is cached.
        assert.equal(await application.value(key), !expected);
        await application.expectEvent(key, () => flip(key));
        assert.equal(await application.value(key), expected);
      }
      await application.expectEvent(key, () => archive(key));
      assert.ok(await application.isArchived(key));
    });

    test("values match the server after 1,000 flips", async () => {
      const keys = [];
      for (let n = 0; n < 20; n++) keys.push(await flag());
      const application = await reading(mode);
      const values = () => Promise.all(keys.map((key) => application.value(key)));
      assert.ok(!(await values()).includes(true));

      // Concurrently: each flag is flipped an even number of times, and half of them once more.
      const flips = keys.flatMap((key, n) => Array(n % 2 ? 49 : 50).fill(key));
      await Promise.all([...flips, ...keys.slice(10)].map((key) => flip(key)));

      const { feature_flags } = await server.admin.toggle("ListFeatureFlags", { page_size: 1000 });
      const status = new Map(feature_flags.map(({ key, status }) => [key, status === "FEATURE_FLAG_STATUS_ENABLED"]));
      const expected = keys.map((key) => status.get(key));
      assert.equal(expected.filter(Boolean).length, 10);
      await waitUntil(async () => String(await values()) === String(expected), "the last of the flips");
    });

    test("a flip during a disconnection is seen later", async () => {
      const [flipped, archived, left] = [await flag(), await flag(), await flag()];
      const proxy = await Proxy.to(server.address);
      const application = await reading(mode, proxy.address);
      for (const key of [flipped, archived, left]) assert.equal(await application.value(key), false);

      await proxy.cut();
      await flip(flipped);
      await archive(archived);
      await proxy.restore();

      await waitUntil(async () => (await application.details(flipped)).value, "the flip");
      await waitUntil(() => application.isArchived(archived), "the archived flag to be disabled");
      await waitUntil(() => application.client.providerStatus === "READY", "the provider to be ready again");
      await application.expectEvent(left, () => flip(left));
      await waitUntil(async () => (await application.details(left)).value, "the flip after it");
      await closeProviders();
      await proxy.cut();
    });

    test("a flip during server downtime is seen later", async () => {
      const folder = temporaryFolder();
      // A port of this address stays free while the server is down.
      let own = await Server.start(folder, { ...open, listen: "127.0.0.2:0" });
      const listen = own.address;
      for (const key of ["flipped", "left"]) await own.admin.toggle("CreateFeatureFlag", { key, name: key });
      const application = await reading(mode, listen);
      for (const key of ["flipped", "left"]) assert.equal(await application.value(key), false);

      await own.stop();
      // As docs/clients.md says. The RPC mode returns the caller's default, once its cache is stale.
      if (mode === "in-process") assert.equal((await application.details("left", true)).value, false);
      // A server at another address, which the provider does not know.
      own = await Server.start(folder, open);
      await flip("flipped", own);
      await own.stop();
      own = await Server.start(folder, { ...open, listen });

      await waitUntil(async () => (await application.details("flipped")).value, "the flip");
      await waitUntil(() => application.client.providerStatus === "READY", "the provider to be ready again");
      await application.expectEvent("left", () => flip("left", own));
      await waitUntil(async () => (await application.details("left")).value, "the flip after it");
      await closeProviders();
      await own.stop();
    });

    test("the provider is not ready without anonymous reads", async () => {
      const closed = await Server.start(temporaryFolder());
      await closed.admin.toggle("CreateFeatureFlag", { key: "closed", name: "Closed" });
      const application = new Application();

      const provider = flagd(closed.address, mode, { fatalStatusCodes: ["UNAUTHENTICATED"] });
      await assert.rejects(OpenFeature.setProviderAndWait(application.domain, provider));

      const details = await application.details("closed", true);
      assert.equal(details.value, true);
      assert.ok(details.errorCode);
      await closeProviders();
      await closed.stop();
    });
  });
}
