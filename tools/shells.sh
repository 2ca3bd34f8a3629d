#!/usr/bin/env bash
# Completion is tested in real shells: bash is here, zsh and fish are Debian's.
set -euo pipefail
missing=()
for name in zsh fish; do command -v "$name" >/dev/null 2>&1 || missing+=("$name"); done
[ ${#missing[@]} = 0 ] && exit 0
if command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
  echo "installing Debian's ${missing[*]} for the completion's tests…"
  export DEBIAN_FRONTEND=noninteractive
  apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null 2>&1 \
    || { apt-get update -qq >/dev/null && apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null; }
else
  echo "error: the tests need ${missing[*]}" >&2
  echo "hint:  sudo apt-get install ${missing[*]}" >&2
  exit 1
fi
