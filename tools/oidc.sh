#!/usr/bin/env bash
# Fetches the OpenID provider that `login` is tested against (npm packages of tools/oidc, pinned by version and integrity)
# into .cache/oidc. Without npm: one line that says so; exit 0. The tests that need it then fail and say so.
set -euo pipefail
cd "$(dirname "$0")/.."
package=.cache/oidc/node_modules/oidc-provider/package.json
stamp=.cache/oidc/.made-from
wanted=$(sha256sum tools/oidc/package-lock.json | cut -d' ' -f1)
[ -f "$package" ] && [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && exit 0
if ! command -v npm >/dev/null 2>&1; then
  echo "npm is not here, so the OpenID provider cannot be fetched: the tests of login will fail"
  exit 0
fi
echo "fetching the OpenID provider (oidc-provider)…"
mkdir -p .cache/oidc
cp tools/oidc/package.json tools/oidc/package-lock.json .cache/oidc/
npm ci --prefix .cache/oidc --silent --no-audit --no-fund --ignore-scripts
echo "$wanted" > "$stamp"
