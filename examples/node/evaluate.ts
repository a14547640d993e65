// Prints a flag's value with OpenFeature, and each change of it, until Ctrl-C: node dist/evaluate.js in-process|rpc|ofrep [KEY]

import { setTimeout as sleep } from "node:timers/promises";

import { FlagdProvider } from "@openfeature/flagd-provider";
import { OFREPProvider } from "@openfeature/ofrep-provider";
import { OpenFeature } from "@openfeature/server-sdk";

const [mode = "in-process", key = "checkout"] = process.argv.slice(2);
const address = new URL(process.env.TOGGLED_ADDR ?? "http://localhost:50051");

// Over gRPC. in-process holds all flags, and keeps their last values while the server is lost. This provider cannot send a
// token, so the server needs --anonymous-flagd-environments.
const flagd = (resolverType: "in-process" | "rpc") =>
  new FlagdProvider({
    host: address.hostname,
    port: Number(address.port),
    tls: address.protocol === "https:",
    certPath: process.env.TOGGLED_CA_CERTIFICATE,
    resolverType,
  });

// Over HTTP, with a call for each value. A private CA is named by NODE_EXTRA_CA_CERTS.
const ofrep = () =>
  new OFREPProvider({ baseUrl: address.origin, headers: [["authorization", `Bearer ${process.env.TOGGLED_TOKEN}`]] });

await OpenFeature.setProviderAndWait(mode === "ofrep" ? ofrep() : flagd(mode as "in-process" | "rpc"));
const flags = OpenFeature.getClient();

for (let shown = ""; ; await sleep(200)) {
  const details = await flags.getBooleanDetails(key, false);
  // A service would only use details.value: the flag's, or on an error the default.
  let value = `${key}: ${details.value ? "on" : "off"}`;
  if (details.errorCode) value += ` by default, ${details.errorCode}: ${details.errorMessage}`;
  if (value !== shown) console.log((shown = value));
}
