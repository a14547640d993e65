// Applications that read flags through OpenFeature's published providers.

import assert from "node:assert/strict";

import { packages } from "./paths.mjs";

const { OpenFeature, ProviderEvents } = packages("@openfeature/server-sdk");
const { FlagdProvider } = packages("@openfeature/flagd-provider");
const { OFREPProvider } = packages("@openfeature/ofrep-provider");

// The modes of flagd's provider: a call per value, with a cache, or a local copy of all flags.
export const MODES = ["rpc", "in-process"];

// How many milliseconds to wait for asynchronous events.
const TIMEOUT = 60_000;

// Waits for a condition, and fails after TIMEOUT.
export async function waitUntil(holds, what) {
  const deadline = Date.now() + TIMEOUT;
  while (!(await holds())) {
    assert.ok(Date.now() < deadline, `timed out waiting for ${what}`);
    await new Promise((soon) => setTimeout(soon, 10));
  }
}

// This provider cannot send a token.
export function flagd(address, mode, options = {}) {
  const [host, port] = address.split(":");
  // A long deadline for slow machines, and quick retries after a broken connection.
  const timeouts = { deadlineMs: 10_000, retryBackoffMs: 50, retryBackoffMaxMs: 100 };
  return new FlagdProvider({ host, port: Number(port), resolverType: mode, ...timeouts, ...options });
}

export function ofrep(address, token, selector) {
  const headers = token === undefined ? [] : [["authorization", `Bearer ${token}`]];
  if (selector !== undefined) headers.push(["flagd-selector", selector]);
  return new OFREPProvider({ baseUrl: `http://${address}`, headers });
}

let applications = 0;

// Reads flags, and records the events of its provider.
export class Application {
  // The keys of every change event.
  changes = [];

  constructor() {
    this.domain = `application-${++applications}`;
    this.client = OpenFeature.getClient(this.domain);
    this.client.addHandler(ProviderEvents.ConfigurationChanged, (event) => this.changes.push(event.flagsChanged ?? []));
  }

  // Creates an application and waits until its provider is ready.
  static async with(provider) {
    const application = new Application();
    await OpenFeature.setProviderAndWait(application.domain, provider);
    return application;
  }

  details(key, otherwise = false) {
    return this.client.getBooleanDetails(key, otherwise);
  }

  // The value of a flag that must exist.
  async value(key) {
    const details = await this.details(key);
    assert.equal(details.errorCode, undefined, JSON.stringify(details));
    return details.value;
  }

  // Whether the flag reads as not found, with either default.
  isMissing(key) {
    return this.#readsDefault(key, "ERROR", "FLAG_NOT_FOUND");
  }

  // Whether the flag reads as archived, with either default: no error, and no variant.
  isArchived(key) {
    return this.#readsDefault(key, "DISABLED", undefined);
  }

  async #readsDefault(key, expectedReason, expectedCode) {
    const found = await Promise.all([true, false].map((otherwise) => this.details(key, otherwise)));
    return found.every(({ value, variant, reason, errorCode }, n) =>
      value === (n === 0) && !variant && reason === expectedReason && errorCode === expectedCode);
  }

  // Makes a change, and waits for the provider's event about this flag.
  async expectEvent(key, act) {
    const events = () => this.changes.filter((keys) => keys.includes(key)).length;
    const before = events();
    await act();
    await waitUntil(() => events() > before, `the change event of ${key}`);
  }
}

export async function closeProviders() {
  await OpenFeature.clearProviders();
  OpenFeature.clearHandlers();
}
