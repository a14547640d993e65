// Runs the real server in a temporary folder, with a client for its administrator.

import { spawn } from "node:child_process";
import { once } from "node:events";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";

import { BINARY, PROTO, packages } from "./paths.mjs";

const grpc = packages("@grpc/grpc-js");
const loader = packages("@grpc/proto-loader");

// The maximum number of milliseconds for a start or a call.
const TIMEOUT = 60_000;

// These tests do not test the rate limit of changes.
const UNLIMITED = { TOGGLED_MAX_CHANGES_PER_SECOND: "1000000" };

// Cleaned up at exit, even if a test fails.
const running = new Set();
const folders = [];
process.once("exit", () => {
  for (const child of running) child.kill("SIGKILL");
  for (const folder of folders) fs.rmSync(folder, { recursive: true, force: true });
});

// A folder for a database, deleted at exit.
export function temporaryFolder() {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), "toggled-node-"));
  folders.push(folder);
  return folder;
}

export class Server {
  // Starts `toggled serve` on the folder's database, and waits until it is ready.
  static async start(folder, { listen = "127.0.0.1:0", environment = {}, certificates } = {}) {
    const server = new Server();
    // The tests' own environment must not configure the server.
    const inherited = Object.entries(process.env).filter(([name]) => !name.startsWith("TOGGLED_"));
    const tls = certificates && { TOGGLED_TLS_CERTIFICATE: certificates.certificate, TOGGLED_TLS_KEY: certificates.key };
    const log = path.join(folder, "stderr.log");
    server.process = spawn(BINARY, ["serve", "--listen", listen], {
      cwd: folder,
      env: { ...Object.fromEntries(inherited), ...UNLIMITED, ...tls, ...environment },
      stdio: ["ignore", "pipe", fs.openSync(log, "a")],
    });
    server.ended = once(server.process, "exit");
    running.add(server.process);
    await new Promise((ready, failed) => {
      const output = () => fs.readFileSync(log, "utf8");
      const late = setTimeout(() => failed(new Error(`the server did not start: ${output()}`)), TIMEOUT);
      createInterface(server.process.stdout).on("line", (line) => {
        server.address ??= line.match(/^toggled listens on (\S+)$/)?.[1];
        if (line.startsWith("ready")) ready(clearTimeout(late));
      });
      server.ended.then(() => failed(new Error(`the server ended: ${output()}`)), failed);
    });
    server.token = fs.readFileSync(path.join(folder, "toggled-admin.token"), "utf8").trim();
    server.admin = new Admin(server.address, server.token, certificates?.pem);
    return server;
  }

  async stop() {
    this.admin.close();
    this.process.kill("SIGTERM");
    await this.ended;
    running.delete(this.process);
  }
}

const loaded = loader.loadSync(["toggle_service", "access_service", "environment_service"].map((name) => `toggled/v1/${name}.proto`), {
  includeDirs: [PROTO],
  keepCase: true,
  enums: String,
  defaults: true,
});
const services = grpc.loadPackageDefinition(loaded).toggled.v1;

// Calls methods by their names: `await admin.toggle("CreateFeatureFlag", { key, name })`.
class Admin {
  constructor(address, token, authority) {
    this.metadata = new grpc.Metadata();
    this.metadata.set("authorization", `Bearer ${token}`);
    const credentials = authority ? grpc.credentials.createSsl(authority) : grpc.credentials.createInsecure();
    this.toggles = new services.ToggleService(address, credentials);
    this.accesses = new services.AccessService(address, credentials);
    this.environments = new services.EnvironmentService(address, credentials);
  }

  toggle(method, request) {
    return this.#call(this.toggles, method, request);
  }

  environment(method, request) {
    return this.#call(this.environments, method, request);
  }

  access(method, request) {
    return this.#call(this.accesses, method, request);
  }

  // A token with no other permission than to read flags.
  async readerToken() {
    const request = { email: "reader@example.com", permissions: ["view_feature_flags"] };
    const { user } = await this.#call(this.accesses, "CreateUser", request);
    return (await this.#call(this.accesses, "CreateToken", { user_id: user.id, name: "flags" })).secret;
  }

  close() {
    this.toggles.close();
    this.accesses.close();
    this.environments.close();
  }

  #call(client, method, request) {
    return new Promise((resolve, reject) => {
      const deadline = Date.now() + TIMEOUT;
      const done = (error, answer) => (error ? reject(error) : resolve(answer));
      client[method](request, this.metadata, { deadline }, done);
    });
  }
}
