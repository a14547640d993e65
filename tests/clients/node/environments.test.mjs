// OpenFeature's providers with selectors: each reads one environment, and nothing of the other.

import assert from "node:assert/strict";
import { after, afterEach, before, describe, test } from "node:test";

import { Application, MODES, closeProviders, flagd, ofrep, waitUntil } from "./applications.mjs";
import { Server, temporaryFolder } from "./server.mjs";

let server;

const flip = (environment, key) => server.admin.toggle("ToggleFeatureFlag", { environment, key });

before(async () => {
  const environment = { TOGGLED_ANONYMOUS_FLAGD_ENVIRONMENTS: "default,staging" };
  server = await Server.start(temporaryFolder(), { environment });
  await server.admin.environment("CreateEnvironment", { key: "staging", name: "Staging" });
});
after(() => server.stop());
afterEach(closeProviders);

for (const mode of MODES) {
  describe(mode, () => {
    test("each provider reads its own environment", async () => {
      const key = `flag-${mode}`;
      for (const environment of ["default", "staging"]) {
        await server.admin.toggle("CreateFeatureFlag", { environment, key, name: key });
      }
      // In the RPC mode, this provider sends no selector when it asks for changes, so that its cache would keep old values.
      const options = mode === "rpc" ? { cache: "disabled" } : {};
      const applications = {
        default: await Application.with(flagd(server.address, mode, options)),
        staging: await Application.with(flagd(server.address, mode, { ...options, selector: "flagSetId=staging" })),
      };
      const values = { default: false, staging: false };
      for (const environment of ["staging", "default", "staging", "default"]) {
        const act = () => flip(environment, key);
        await (mode === "rpc" ? act() : applications[environment].expectEvent(key, act));
        values[environment] = !values[environment];
        for (const [one, application] of Object.entries(applications)) {
          await waitUntil(async () => (await application.value(key)) === values[one], `the value in ${one}`);
        }
      }
    });
  });
}

test("OFREP's provider reads the selected environment", async () => {
  const token = await server.admin.readerToken();
  for (const environment of ["default", "staging"]) {
    await server.admin.toggle("CreateFeatureFlag", { environment, key: "ofrep", name: "ofrep" });
  }
  await flip("staging", "ofrep");
  const own = await Application.with(ofrep(server.address, token));
  const staging = await Application.with(ofrep(server.address, token, "staging"));
  assert.deepEqual([await own.value("ofrep"), await staging.value("ofrep")], [false, true]);
});
