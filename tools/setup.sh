#!/usr/bin/env bash
# Makes .venv exactly what requirements.lock says, with this project in it. Called by make; does nothing when it is so.
set -euo pipefail
cd "$(dirname "$0")/.."
stamp=.venv/.made-from
wanted=$(cat requirements.lock pyproject.toml tools/setup.sh | sha256sum | cut -d' ' -f1)
[ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && exit 0

python=""
for candidate in "${PYTHON:-}" python3.11 python3.12 python3.13 python3.14 python3; do
  [ -n "$candidate" ] || continue
  if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$candidate; break; fi
done
if [ -z "$python" ]; then
  echo "error: no Python 3.11 or newer with venv was found" >&2
  echo "hint:  install it (Debian: apt-get install python3 python3-venv), or: make PYTHON=/path/to/python3.11 …" >&2
  exit 1
fi
echo "setting up .venv with $("$python" --version)…"
unset PYTHONDONTWRITEBYTECODE  # compiled modules are what makes the command line start fast
[ -x .venv/bin/python ] || "$python" -m venv .venv
if ! .venv/bin/uv --version >/dev/null 2>&1; then
  .venv/bin/python -m pip install --quiet --disable-pip-version-check "uv==0.13.9" 2>/dev/null || true
fi
export UV_SYSTEM_CERTS=1  # as pip does: a company's own certificate authority is in the system's store
with_uv() {
  .venv/bin/uv --version >/dev/null 2>&1 || return 1
  .venv/bin/uv pip install --quiet --python .venv/bin/python --require-hashes --compile-bytecode -r requirements.lock
  .venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --compile-bytecode -e .
}
with_pip() {
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
}
with_uv || { echo "uv did not do it; going on with pip, which takes longer…" >&2; with_pip; }
.venv/bin/python -m compileall -q mcpg
echo "$wanted" > "$stamp"
