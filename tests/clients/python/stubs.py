"""Generates the Python stubs from proto/toggled on import, so that `import toggled.v1....` works afterwards.

The stubs are generated anew each time. The other files in proto/ are not included: clients bring them along, and protobuf
refuses two files that describe the same messages.
"""

import importlib.resources
import subprocess
import sys
import tempfile

from paths import PROTO

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
