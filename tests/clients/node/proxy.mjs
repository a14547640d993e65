// A TCP proxy that can be cut and restored.

import { once } from "node:events";
import net from "node:net";

// Connections and servers use ports of 127.0.0.1, so a port of this address stays free while the proxy is cut.
const OTHER_LOOPBACK = "127.0.0.3";

export class Proxy {
  #connections = new Set();
  #target;
  #port = 0;

  static async to(address) {
    const proxy = new Proxy();
    const [host, port] = address.split(":");
    proxy.#target = { host, port: Number(port) };
    await proxy.restore();
    return proxy;
  }

  get address() {
    return `${OTHER_LOOPBACK}:${this.#port}`;
  }

  // Starts to listen, always on the same port.
  async restore() {
    this.listener = net.createServer((client) => {
      const server = net.connect(this.#target);
      for (const [end, other] of [[client, server], [server, client]]) {
        this.#connections.add(end);
        end.on("error", () => {});
        end.on("close", () => {
          this.#connections.delete(end);
          other.destroy();
        });
        end.pipe(other);
      }
    });
    this.listener.listen(this.#port, OTHER_LOOPBACK);
    await once(this.listener, "listening");
    this.#port = this.listener.address().port;
  }

  // Refuses new connections, and closes the existing ones.
  async cut() {
    const closed = once(this.listener, "close");
    this.listener.close();
    for (const end of this.#connections) end.destroy();
    await closed;
  }
}
