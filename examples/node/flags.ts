// Flips a flag, reads it, then watches it and follows its audit log until Ctrl-C.

import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";

import type { MessageInitShape } from "@bufbuild/protobuf";
import { type Client, Code, ConnectError, createClient, type Interceptor } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";

import { AuditService, type StreamAuditLogsRequestSchema } from "./gen/toggled/v1/audit_service_pb.js";
import { type FeatureFlag, FeatureFlagStatus } from "./gen/toggled/v1/feature_flag_pb.js";
import { ToggleService, type WatchFeatureFlagsRequestSchema } from "./gen/toggled/v1/toggle_service_pb.js";

// After these a call is repeated. The change may have been made, so a repeated one needs the same requestId.
const RETRYABLE = [Code.Unavailable, Code.DeadlineExceeded, Code.ResourceExhausted, Code.Unknown, Code.Internal, Code.Canceled, Code.Aborted];
// The log no longer has the cursor: it was trimmed, or restored from a backup.
const CURSOR_LOST = [Code.OutOfRange, Code.FailedPrecondition];

// A transport to TOGGLED_ADDR that sends TOGGLED_TOKEN with each call.
function connect() {
  const token = process.env.TOGGLED_TOKEN;
  const authorize: Interceptor = (next) => (request) => {
    request.header.set("authorization", `Bearer ${token}`);
    return next(request);
  };
  const authority = process.env.TOGGLED_CA_CERTIFICATE;
  return createGrpcTransport({
    baseUrl: process.env.TOGGLED_ADDR ?? "http://localhost:50051",
    interceptors: [authorize],
    nodeOptions: authority ? { ca: readFileSync(authority) } : {},
    // Pings find a lost connection, on which a stream would wait for ever.
    pingIntervalMs: 30_000,
  });
}

// Reports an error, and throws it if no retry can mend it.
function check(failure: unknown) {
  const error = ConnectError.from(failure);
  if (!RETRYABLE.includes(error.code)) throw error;
  console.error(`${error.message}; retrying`);
}

// Waits before the next attempt, up to 5 seconds.
async function pause(attempt: number) {
  await sleep((0.5 + Math.random() / 2) * Math.min(5_000, 200 * 2 ** attempt));
}

// Repeats a call until it succeeds.
async function retry<T>(call: () => Promise<T>, attempts = 20) {
  for (let attempt = 0; attempt < attempts; attempt++) {
    try {
      return await call();
    } catch (error) {
      check(error);
    }
    await pause(attempt);
  }
  throw new Error(`no answer after ${attempts} attempts`);
}

// Reads a stream for ever. When it breaks, opens it again.
async function resume<T>(open: () => AsyncIterable<T>, handle: (message: T) => void): Promise<never> {
  for (let attempt = 0; ; attempt++) {
    try {
      for await (const message of open()) {
        handle(message);
        attempt = 0;
      }
    } catch (error) {
      check(error);
    }
    await pause(attempt);
  }
}

function describe(flag: FeatureFlag) {
  return `${flag.key}: ${flag.status === FeatureFlagStatus.ENABLED ? "enabled" : "disabled"} at revision ${flag.revision}`;
}

// Prints the flag's state, and each change of it.
async function watch(toggles: Client<typeof ToggleService>, key: string): Promise<never> {
  for (;;) {
    // The request holds the cursor.
    const request: MessageInitShape<typeof WatchFeatureFlagsRequestSchema> = { keys: [key] };
    try {
      await resume(() => toggles.watchFeatureFlags(request), (message) => {
        for (const flag of message.featureFlags) console.log("watched", describe(flag));
        [request.afterRevision, request.afterHash, request.logId] = [message.revision, message.hash, message.logId];
      });
    } catch (error) {
      if (!CURSOR_LOST.includes(ConnectError.from(error).code)) throw error;
    }
  }
}

// Prints the flag's audit entries, and each new one. Ends if the log is not the one it was.
async function follow(audits: Client<typeof AuditService>, flagId: string): Promise<never> {
  const request: MessageInitShape<typeof StreamAuditLogsRequestSchema> = { entityId: flagId, follow: true };
  return resume(() => audits.streamAuditLogs(request), (message) => {
    for (const entry of message.items)
      console.log(`audited ${entry.entityKey}: ${entry.actionType} at revision ${entry.revision} by ${entry.userEmail}`);
    [request.afterRevision, request.afterHash, request.logId] = [message.throughRevision, message.throughHash, message.logId];
  });
}

const key = process.argv[2] ?? "checkout";
const transport = connect();
const toggles = createClient(ToggleService, transport);

// All attempts have one requestId, so the flag is flipped once.
const flip = { flag: { case: "key", value: key }, reason: "an example", requestId: randomUUID() } as const;
const flipped = await retry(() => toggles.toggleFeatureFlag(flip, { timeoutMs: 10_000 }));
console.log("flipped", describe(flipped.featureFlag!));
// Another server may answer: minRevision makes it wait for the flip.
const wanted = { flag: flip.flag, minRevision: flipped.revision };
const read = await retry(() => toggles.getFeatureFlag(wanted, { timeoutMs: 10_000 }));
console.log("read", describe(read.featureFlag!));
await Promise.all([watch(toggles, key), follow(createClient(AuditService, transport), read.featureFlag!.id)]);
