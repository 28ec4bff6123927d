"""The committed stubs are what the .proto files say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

from dcf.rpc import pb_gateway_pb2, v1_gateway_pb2, v1_watcher_pb2

ROOT = Path(__file__).parents[2]
STUBS = {
    "gateway.proto": pb_gateway_pb2,
    "dcf/v1/gateway.proto": v1_gateway_pb2,
    "dcf/v1/watcher.proto": v1_watcher_pb2,
}


def test_stubs_are_fresh(tmp_path: Path) -> None:
    out = tmp_path / "descriptors"
    # Descriptors, not texts: the compiler here may be newer than the one that wrote the stubs.
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", str(ROOT / "proto"), f"--descriptor_set_out={out}"]
    subprocess.run([*command, *STUBS], check=True)

    files = FileDescriptorSet.FromString(out.read_bytes()).file
    assert len(files) == len(STUBS)
    for file in files:
        committed = FileDescriptorProto()
        STUBS[file.name].DESCRIPTOR.CopyToProto(committed)
        assert _plain(committed) == _plain(file), f"{file.name}: run proto/generate.sh"


def _plain(file: FileDescriptorProto) -> FileDescriptorProto:
    """Without what only the compiler adds."""
    file.ClearField("source_code_info")
    messages = list(file.message_type)
    while messages:
        message = messages.pop()
        messages += message.nested_type
        for field in message.field:
            field.ClearField("json_name")
    return file
