#!/bin/sh
# Write dcf/rpc/*_pb2.py(i) from the .proto files. The stubs are committed, so
# that `pip install .` needs no compiler; a test regenerates and compares.
# Usage: proto/generate.sh PYTHON [OUT_DIR]
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
python=$1
out=${2:-$root/dcf/rpc}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" -m grpc_tools.protoc -I "$root/proto" --python_out="$work" --pyi_out="$work" \
    gateway.proto dcf/v1/gateway.proto dcf/v1/watcher.proto
for kind in py pyi; do
    cp "$work/gateway_pb2.$kind" "$out/pb_gateway_pb2.$kind"
    cp "$work/dcf/v1/gateway_pb2.$kind" "$out/v1_gateway_pb2.$kind"
    cp "$work/dcf/v1/watcher_pb2.$kind" "$out/v1_watcher_pb2.$kind"
done
