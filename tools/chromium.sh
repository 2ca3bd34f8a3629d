#!/usr/bin/env bash
# The page is tested in a real browser: finds one, or installs Debian's.
set -euo pipefail
for name in chromium chromium-browser google-chrome; do command -v "$name" >/dev/null 2>&1 && exit 0; done
if command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
  echo "installing Debian's chromium for the page's tests…"
  export DEBIAN_FRONTEND=noninteractive
  apt-get install -y -qq --no-install-recommends chromium >/dev/null 2>&1 \
    || { apt-get update -qq >/dev/null && apt-get install -y -qq --no-install-recommends chromium >/dev/null; }
else
  echo "error: the tests need a Chromium" >&2
  echo "hint:  sudo apt-get install chromium" >&2
  exit 1
fi
