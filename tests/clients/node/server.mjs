// A server of the real binary, in a temporary folder of its own, and its administrator.

import { spawn } from "node:child_process";
import { once } from "node:events";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";

import { BINARY, PROTO, packages } from "./places.mjs";

const grpc = packages("@grpc/grpc-js");
const loader = packages("@grpc/proto-loader");

// How long a start may take before it counts as hanging.
const PATIENCE = 60_000;

// A test may change flags as fast as the machine lets it: how many changes a caller may make is not what is tested here.
const UNLIMITED = { TOGGLED_MAX_CHANGES_PER_SECOND: "1000000" };

// What a test that fails must not leave behind.
const running = new Set();
const folders = [];
process.once("exit", () => {
  for (const child of running) child.kill("SIGKILL");
  for (const folder of folders) fs.rmSync(folder, { recursive: true, force: true });
});

// Where a database is kept; removed at the end.
export function temporaryFolder() {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), "toggled-node-"));
  folders.push(folder);
  return folder;
}

export class Server {
  // Starts `toggled serve` on the folder's database; resolves when it serves.
  static async start(folder, { listen = "127.0.0.1:0", environment = {} } = {}) {
    const server = new Server();
    // The tests' own environment must not configure the server.
    const inherited = Object.entries(process.env).filter(([name]) => !name.startsWith("TOGGLED_"));
    const log = path.join(folder, "stderr.log");
    server.process = spawn(BINARY, ["serve", "--listen", listen], {
      cwd: folder,
      env: { ...Object.fromEntries(inherited), ...UNLIMITED, ...environment },
      stdio: ["ignore", "pipe", fs.openSync(log, "a")],
    });
    server.ended = once(server.process, "exit");
    running.add(server.process);
    await new Promise((ready, failed) => {
      const said = () => fs.readFileSync(log, "utf8");
      const late = setTimeout(() => failed(new Error(`the server does not start: ${said()}`)), PATIENCE);
      createInterface(server.process.stdout).on("line", (line) => {
        server.address ??= line.match(/^toggled listens on (\S+)$/)?.[1];
        if (line.startsWith("ready")) ready(clearTimeout(late));
      });
      server.ended.then(() => failed(new Error(`the server ended: ${said()}`)), failed);
    });
    server.token = fs.readFileSync(path.join(folder, "toggled-admin.token"), "utf8").trim();
    server.admin = new Admin(server.address, server.token);
    return server;
  }

  async stop() {
    this.admin.close();
    this.process.kill("SIGTERM");
    await this.ended;
    running.delete(this.process);
  }
}

const loaded = loader.loadSync(["toggle_service", "access_service"].map((name) => `toggled/v1/${name}.proto`), {
  includeDirs: [PROTO],
  keepCase: true,
  enums: String,
  defaults: true,
});
const services = grpc.loadPackageDefinition(loaded).toggled.v1;

// Calls methods by their names: `await admin.toggle("CreateFeatureFlag", { key, name })`.
class Admin {
  constructor(address, token) {
    this.metadata = new grpc.Metadata();
    this.metadata.set("authorization", `Bearer ${token}`);
    const credentials = grpc.credentials.createInsecure();
    this.toggles = new services.ToggleService(address, credentials);
    this.accesses = new services.AccessService(address, credentials);
  }

  toggle(method, request) {
    return this.#call(this.toggles, method, request);
  }

  // The token of a service that may read flags, and nothing else.
  async readerToken() {
    const request = { email: "reader@example.com", permissions: ["view_feature_flags"] };
    const { user } = await this.#call(this.accesses, "CreateUser", request);
    return (await this.#call(this.accesses, "CreateToken", { user_id: user.id, name: "flags" })).secret;
  }

  close() {
    this.toggles.close();
    this.accesses.close();
  }

  #call(client, method, request) {
    return new Promise((resolve, reject) => {
      const deadline = Date.now() + PATIENCE;
      const done = (error, answer) => (error ? reject(error) : resolve(answer));
      client[method](request, this.metadata, { deadline }, done);
    });
  }
}
