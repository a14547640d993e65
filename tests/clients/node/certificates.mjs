// A CA of the tests' own, and a server's certificate.

import { execFileSync } from "node:child_process";
import fs from "node:fs";
import path from "node:path";

// Creates both for these alternative names, such as "IP:127.0.0.2", and returns their paths.
export function certificates(folder, names) {
  const file = (name) => path.join(folder, name);
  const openssl = (...words) => execFileSync("openssl", words, { stdio: "pipe" });
  const key = (name) => ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", file(name)];
  openssl("req", "-x509", "-days", "2", "-subj", "/CN=CA of the tests", ...key("ca.key"), "-out", file("ca.pem"));
  openssl("req", "-subj", "/CN=server", "-addext", `subjectAltName=${names}`, ...key("server.key"), "-out", file("server.csr"));
  const authority = ["-CA", file("ca.pem"), "-CAkey", file("ca.key"), "-CAcreateserial", "-copy_extensions", "copy", "-days", "2"];
  openssl("x509", "-req", "-in", file("server.csr"), ...authority, "-out", file("server.pem"));
  return { authority: file("ca.pem"), certificate: file("server.pem"), key: file("server.key"), pem: fs.readFileSync(file("ca.pem")) };
}
