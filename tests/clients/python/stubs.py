"""Generates the Python stubs from proto/toggled when it is imported, so that `import toggled.v1....` works after it.

They are as fresh as the contract: nothing generated is kept. What else lies in proto/, clients bring along themselves:
protobuf refuses two files that describe the same messages.
"""

import importlib.resources
import subprocess
import sys
import tempfile

from places import PROTO

_folder = tempfile.TemporaryDirectory(prefix="toggled-stubs-")
subprocess.run(
    [
        sys.executable,
        "-m",
        "grpc_tools.protoc",
        f"--proto_path={PROTO}",
        f"--proto_path={importlib.resources.files('grpc_tools') / '_proto'}",
        f"--python_out={_folder.name}",
        f"--grpc_python_out={_folder.name}",
        *sorted(str(path) for path in (PROTO / "toggled").rglob("*.proto")),
    ],
    check=True,
)
sys.path.insert(0, _folder.name)
