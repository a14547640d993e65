"""The packages that generators of other languages use."""

import importlib.resources
import subprocess
import sys

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from paths import PROTO

FILES = sorted(str(path.relative_to(PROTO)) for path in PROTO.rglob("*.proto"))


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    """The options of each file."""
    out = tmp_path_factory.mktemp("descriptors") / "all"
    known = importlib.resources.files("grpc_tools") / "_proto"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO}", f"-I{known}", f"--descriptor_set_out={out}", *FILES]
    subprocess.run(command, check=True)
    return {file.name: file.options for file in FileDescriptorSet.FromString(out.read_bytes()).file}


@pytest.mark.parametrize("file", FILES)
def test_file_names_its_packages(options, file):
    named = options[file]
    assert named.go_package and named.java_package and named.csharp_namespace


@pytest.mark.parametrize("file", [file for file in FILES if file.startswith("toggled/")])
def test_java_class_has_a_name_of_its_own(options, file):
    """Without these, `error.proto` is a class `Error`, as in java.lang."""
    assert options[file].java_multiple_files and options[file].java_outer_classname.endswith("Proto")
