"""Paths in the repository."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PROTO = ROOT / "proto"
BINARY = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug" / "toggled"
TOOLS = ROOT / ".tools"
BUF = TOOLS / "node_modules" / ".bin" / "buf"
# The real grpcurl, where Go is installed.
GRPCURL = TOOLS / "bin" / "grpcurl"
# The folder of the stand-in for it.
GRPCURL_FOLDER = ROOT / "tests" / "clients" / "bin"
