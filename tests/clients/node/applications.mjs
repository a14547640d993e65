// Applications that read flags through OpenFeature, with the providers as they are published.

import assert from "node:assert/strict";

import { packages } from "./places.mjs";

const { OpenFeature, ProviderEvents } = packages("@openfeature/server-sdk");
const { FlagdProvider } = packages("@openfeature/flagd-provider");
const { OFREPProvider } = packages("@openfeature/ofrep-provider");

// How flagd's provider reads: by a call for each value, which it caches, or from a copy of all flags.
export const MODES = ["rpc", "in-process"];

// How long something may take that happens by itself.
const PATIENCE = 60_000;

// Waits for a condition; fails when it does not come to hold.
export async function until(holds, what) {
  const deadline = Date.now() + PATIENCE;
  while (!(await holds())) {
    assert.ok(Date.now() < deadline, `waited in vain: ${what}`);
    await new Promise((soon) => setTimeout(soon, 10));
  }
}

// It has no way to send a token.
export function flagd(address, mode, options = {}) {
  const [host, port] = address.split(":");
  // The longest call, for slow machines, and soon again after a broken connection.
  const patience = { deadlineMs: 10_000, retryBackoffMs: 50, retryBackoffMaxMs: 100 };
  return new FlagdProvider({ host, port: Number(port), resolverType: mode, ...patience, ...options });
}

export function ofrep(address, token) {
  const headers = token === undefined ? [] : [["authorization", `Bearer ${token}`]];
  return new OFREPProvider({ baseUrl: `http://${address}`, headers });
}

let applications = 0;

// Reads flags, and keeps what its provider tells.
export class Application {
  // The keys of every change event.
  changes = [];

  constructor() {
    this.domain = `application-${++applications}`;
    this.client = OpenFeature.getClient(this.domain);
    this.client.addHandler(ProviderEvents.ConfigurationChanged, (event) => this.changes.push(event.flagsChanged ?? []));
  }

  // One whose provider is ready.
  static async with(provider) {
    const application = new Application();
    await OpenFeature.setProviderAndWait(application.domain, provider);
    return application;
  }

  details(key, otherwise = false) {
    return this.client.getBooleanDetails(key, otherwise);
  }

  // The flag's value, which must be there.
  async value(key) {
    const details = await this.details(key);
    assert.equal(details.errorCode, undefined, JSON.stringify(details));
    return details.value;
  }

  // Whether there is no such flag, for either default.
  async misses(key) {
    const found = await Promise.all([true, false].map((otherwise) => this.details(key, otherwise)));
    return found.every(({ value, errorCode }, n) => value === (n === 0) && errorCode === "FLAG_NOT_FOUND");
  }

  // Does what changes this flag; resolves when the provider has told so.
  async isTold(key, act) {
    const told = () => this.changes.filter((keys) => keys.includes(key)).length;
    const before = told();
    await act();
    await until(() => told() > before, `the change of ${key}`);
  }
}

export async function closeProviders() {
  await OpenFeature.clearProviders();
  OpenFeature.clearHandlers();
}
