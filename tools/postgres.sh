#!/usr/bin/env bash
# The store is tested on a real PostgreSQL: finds its programmes, or installs Debian's. No server is left running: the
# tests start their own, in a directory of their own.
set -euo pipefail
found() { compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || command -v initdb >/dev/null 2>&1; }
found && exit 0
if command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
  echo "installing Debian's PostgreSQL for the store's tests…"
  export DEBIAN_FRONTEND=noninteractive
  if [ ! -e /etc/postgresql-common/createcluster.conf ]; then # or the package makes a cluster and starts it
    mkdir -p /etc/postgresql-common
    echo "create_main_cluster = false" > /etc/postgresql-common/createcluster.conf
  fi
  apt-get install -y -qq --no-install-recommends postgresql >/dev/null 2>&1 \
    || { apt-get update -qq >/dev/null && apt-get install -y -qq --no-install-recommends postgresql >/dev/null; }
  found
else
  echo "error: the tests need PostgreSQL's programmes (initdb, postgres)" >&2
  echo "hint:  sudo apt-get install postgresql" >&2
  exit 1
fi
