// Flips a flag, reads it, then watches it and follows its audit log until the page is closed.

import type { MessageInitShape } from "@bufbuild/protobuf";
import { type Client, Code, ConnectError, createClient, type Interceptor } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-web";

import { AuditService, type StreamAuditLogsRequestSchema } from "./gen/toggled/v1/audit_service_pb";
import { type FeatureFlag, FeatureFlagStatus } from "./gen/toggled/v1/feature_flag_pb";
import { ToggleService, type WatchFeatureFlagsRequestSchema } from "./gen/toggled/v1/toggle_service_pb";

// After these a call is repeated. The change may have been made, so a repeated one needs the same requestId.
const RETRYABLE = [Code.Unavailable, Code.DeadlineExceeded, Code.ResourceExhausted, Code.Unknown, Code.Internal, Code.Canceled];
// The log no longer has the cursor: it was trimmed, or restored from a backup.
const CURSOR_LOST = [Code.OutOfRange, Code.FailedPrecondition];

// Adds a line to the page.
function print(...words: string[]) {
  const line = document.createElement("li");
  line.textContent = words.join(" ");
  document.querySelector("ol")!.append(line);
}

// Reports an error, and throws it if no retry can mend it.
function check(failure: unknown) {
  const error = ConnectError.from(failure);
  if (!RETRYABLE.includes(error.code)) throw error;
  print(`${error.message}; retrying`);
}

// Waits before the next attempt, up to 5 seconds.
async function pause(attempt: number) {
  const delay = (0.5 + Math.random() / 2) * Math.min(5_000, 200 * 2 ** attempt);
  await new Promise((resolve) => setTimeout(resolve, delay));
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
        for (const flag of message.featureFlags) print("watched", describe(flag));
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
      print(`audited ${entry.entityKey}: ${entry.actionType} at revision ${entry.revision} by ${entry.userEmail}`);
    [request.afterRevision, request.afterHash, request.logId] = [message.throughRevision, message.throughHash, message.logId];
  });
}

async function run(address: string, token: string, key: string) {
  const authorize: Interceptor = (next) => (request) => {
    request.header.set("authorization", `Bearer ${token}`);
    return next(request);
  };
  const transport = createConnectTransport({ baseUrl: address, interceptors: [authorize] });
  const toggles = createClient(ToggleService, transport);

  // All attempts have one requestId, so the flag is flipped once.
  const flip = { flag: { case: "key", value: key }, reason: "an example", requestId: crypto.randomUUID() } as const;
  const flipped = await retry(() => toggles.toggleFeatureFlag(flip, { timeoutMs: 10_000 }));
  print("flipped", describe(flipped.featureFlag!));
  // Another server may answer: minRevision makes it wait for the flip.
  const wanted = { flag: flip.flag, minRevision: flipped.revision };
  const read = await retry(() => toggles.getFeatureFlag(wanted, { timeoutMs: 10_000 }));
  print("read", describe(read.featureFlag!));
  await Promise.all([watch(toggles, key), follow(createClient(AuditService, transport), read.featureFlag!.id)]);
}

document.querySelector("form")!.addEventListener("submit", (event) => {
  event.preventDefault();
  const given = new FormData(event.currentTarget as HTMLFormElement);
  const [address, token, key] = ["address", "token", "key"].map((name) => String(given.get(name)));
  run(address, token, key).catch((error) => print(String(error)));
});
