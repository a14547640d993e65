// A way to a server that can be cut and restored.

import { once } from "node:events";
import net from "node:net";

// A port of this address is nobody's while the way is cut: connections and servers take theirs from 127.0.0.1.
const APART = "127.0.0.3";

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
    return `${APART}:${this.#port}`;
  }

  // Listens, on the same port every time.
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
    this.listener.listen(this.#port, APART);
    await once(this.listener, "listening");
    this.#port = this.listener.address().port;
  }

  // Refuses new connections, and breaks those that are up.
  async cut() {
    const closed = once(this.listener, "close");
    this.listener.close();
    for (const end of this.#connections) end.destroy();
    await closed;
  }
}
