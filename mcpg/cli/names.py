"""
The names that completion offers: from a cache of 30 seconds, else asked of the control plane within half a second.

One request a TAB, by the standard library alone: httpx would take longer to load than the answer to come. Called by
completion.py, which swallows every error.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mcpg.cli import contexts, files, inputs, resolve
from mcpg.cli.parse import Line
from mcpg.cli.resolve import Values

_FRESH_S = 30.0
_BUDGET_S = 0.5
_MAX = 4 * 1024 * 1024

# What is listed where, and which fields of it are names. `{org}` and `{workspace}` are options that must be known.
LISTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "org": ("/v1/orgs", ("slug",)),
    "workspace": ("/v1/orgs/{org}/workspaces", ("slug",)),
    "environment": ("/v1/orgs/{org}/workspaces/{workspace}/environments", ("slug",)),
    "gateway": ("/v1/instances", ("name",)),
    "instance": ("/v1/instances", ("name", "instance_uid")),
    "cluster": ("/v1/clusters", ("name", "id")),
    "operation": ("/v1/operations?limit=50", ("id",)),
    "machine": ("/v1/machines", ("name",)),
    "token": ("/v1/orgs/{org}/workspaces/{workspace}/environments/{env}/enrollment-tokens", ("id",)),
}


def known(kind: str, line: Line) -> list[str]:
    """The names of one *kind*, for the control plane and the place that *line* names."""
    if kind == "context":
        state_dir, _ = resolve.one(resolve.command_of(line).option("state_dir"), line, os.environ, None)
        return [*contexts.read(state_dir).stored, contexts.NONE]
    values = resolve.values(line)
    template, fields = LISTS[kind]
    path = _path(template, values)
    cache = _Cache(values.state_dir, values.cp_url)
    rows = cache.rows(path, lambda: _asked(values, path))
    return list(dict.fromkeys(row[field] for field in fields for row in rows if isinstance(row.get(field), str)))


def _path(template: str, values: Values) -> str:
    from urllib.parse import quote

    parts = {field: quote(getattr(values, field), safe="") for field in ("org", "workspace", "env")}
    path = template.format(**parts)
    if "//" in path:
        raise LookupError(path)  # the place is not known yet
    return path


class _Cache:
    """`<state-dir>/cache/completion-<hash of the URL>.json`: by path, when it was asked and what came. Never needed."""

    def __init__(self, state_dir: Path, url: str) -> None:
        from hashlib import sha256

        self._state_dir = state_dir
        self._path = state_dir / "cache" / f"completion-{sha256(url.encode()).hexdigest()[:16]}.json"

    def rows(self, path: str, ask: Callable[[], list[dict[str, str]]]) -> list[dict[str, str]]:
        """The rows of *path*, asked for anew when they are old; the old ones when nobody answers."""
        stored = self._read()
        entry = stored.get(path)
        old = entry["rows"] if entry else []
        if entry and 0 <= time.time() - entry["at"] < _FRESH_S:
            return list(old)
        rows = old
        with contextlib.suppress(Exception):
            rows = ask()
        self._write(stored | {path: {"at": time.time(), "rows": rows}})  # also a failure: the next TAB does not wait
        return list(rows)

    def _read(self) -> dict[str, Any]:
        with contextlib.suppress(OSError, ValueError, AttributeError, RecursionError):
            raw, _ = files.read(self._path, 4 * _MAX)
            found = json.loads(raw)
            return {
                path: entry
                for path, entry in found.items()
                if isinstance(entry.get("at"), float) and isinstance(entry.get("rows"), list)
            }
        return {}

    def _write(self, stored: dict[str, Any]) -> None:
        if not self._state_dir.is_dir():
            return  # completing a line is no reason to make one
        self._path.parent.mkdir(mode=0o700, exist_ok=True)
        contexts.write_private(self._path, json.dumps(stored))


def _asked(values: Values, path: str) -> list[dict[str, str]]:
    """The array at *path*, names only. Raises TimeoutError when it is not there in time, for whatever reason."""
    from threading import Thread

    headers = {"accept": "application/json"}
    if not values.session_cookie_file or Path(values.session_cookie_file).is_file():  # what a pipe holds, it holds once
        cookie, _ = inputs.session(values)
        headers |= {"cookie": f"mcpg_sid={cookie}"} if cookie else {}
    found: list[Any] = []

    def ask() -> None:
        with contextlib.suppress(Exception):
            found.append(_got(values.cp_url, path, headers))

    thread = Thread(target=ask, daemon=True)  # a look-up of a name, or a byte now and then, knows no time-out
    thread.start()
    thread.join(_BUDGET_S)
    if not found:
        raise TimeoutError(path)
    kept = {field for _, fields in LISTS.values() for field in fields}
    return [{field: row[field] for field in kept & row.keys() if isinstance(row[field], str)} for row in found[0]]


def _got(cp_url: str, path: str, headers: dict[str, str]) -> Any:
    from http.client import HTTPConnection, HTTPSConnection
    from urllib.parse import urlsplit

    url = urlsplit(cp_url)
    kind = HTTPSConnection if url.scheme == "https" else HTTPConnection
    with contextlib.closing(kind(url.hostname or "", url.port, timeout=_BUDGET_S)) as http:
        http.request("GET", url.path.rstrip("/") + path, headers=headers)
        response = http.getresponse()
        if response.status != 200:
            raise LookupError(path)
        return json.loads(response.read(_MAX))
