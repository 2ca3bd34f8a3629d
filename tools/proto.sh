#!/usr/bin/env bash
# Generates mcpg/agent/pb from protos/. Called by `make proto`; tests/agent/test_proto.py runs it into a temporary folder and
# compares. Usage: tools/proto.sh [OUT]
set -eu
cd "$(dirname "$0")/.."
out=${1:-mcpg/agent/pb}
py=${PYTHON:-.venv/bin/python}
mkdir -p "$out"
PATH="$(dirname "$py"):$PATH" "$py" -m grpc_tools.protoc -I protos \
  --python_out="$out" --mypy_out="$out" --grpc_python_out="$out" --mypy_grpc_out="$out" protos/mcpg/cp/v1/agent.proto
# Flat modules inside our package instead of a second top-level `mcpg` tree.
for f in agent_pb2.py agent_pb2.pyi agent_pb2_grpc.py agent_pb2_grpc.pyi; do
  sed -e 's/^from mcpg\.cp\.v1 import agent_pb2 as \(.*\)$/from mcpg.agent.pb import agent_pb2 as \1/' \
      -e 's/^import mcpg\.cp\.v1\.agent_pb2.*$/from mcpg.agent.pb import agent_pb2/' \
      -e 's/^from mcpg\.cp\.v1 import agent_pb2$/from mcpg.agent.pb import agent_pb2/' \
      -e 's/mcpg\.cp\.v1\.agent_pb2\./agent_pb2./g' \
      "$out/mcpg/cp/v1/$f" > "$out/$f"
done
rm -rf "$out/mcpg"
printf '"""Generated from protos/mcpg/cp/v1/agent.proto by `make proto`; never edited by hand."""\n' > "$out/__init__.py"
