#!/usr/bin/env bash
# Fetches the real gateway (npm package of tools/gateway, pinned by version and integrity) into .cache/gateway.
# Without npm: one line that says so; exit 0, for the control plane has an agent of its own. The tests that need the
# real one then fail and say so.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=.cache/gateway/node_modules/@mcpg-dev/cli-linux-x64/bin/mcpg
stamp=.cache/gateway/.made-from
wanted=$(sha256sum tools/gateway/package-lock.json | cut -d' ' -f1)
[ -x "$bin" ] && [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && exit 0
if ! command -v npm >/dev/null 2>&1; then
  echo "npm is not here, so the real gateway cannot be fetched: going on with our own agent (mcpg-ctl gateway)"
  exit 0
fi
if [ "$(uname -sm)" != "Linux x86_64" ]; then
  echo "the real gateway is published for Linux x86_64 only: going on with our own agent (mcpg-ctl gateway)"
  exit 0
fi
echo "fetching the real gateway (@mcpg-dev/cli-linux-x64)…"
mkdir -p .cache/gateway
cp tools/gateway/package.json tools/gateway/package-lock.json .cache/gateway/
npm ci --prefix .cache/gateway --silent --no-audit --no-fund --ignore-scripts
"$bin" --version >/dev/null
echo "$wanted" > "$stamp"
