// Paths in the repository, and its Node packages, which Node would not find by itself.

import { createRequire } from "node:module";
import path from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("../../../", import.meta.url));

export const PROTO = path.join(ROOT, "proto");
export const BINARY = path.join(process.env.CARGO_TARGET_DIR ?? path.join(ROOT, "target"), "debug", "toggled");

export const packages = createRequire(path.join(ROOT, ".tools", "package.json"));

export const EXAMPLES = path.join(ROOT, "examples");
export const PYTHON = path.join(ROOT, ".tools", "venv", "bin", "python");
export const CONNECT_FLAGD = path.join(ROOT, ".tools", "bin", "connect_flagd");
export const TESTS = path.join(ROOT, "tests", "clients");
