"""
What `<state-dir>/server.json` says, and whether it is still true. The server writes that file when it is ready and
removes it when it stops; after a crash it stays, so it is believed only as far as it can be checked.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

from mcpg.cli import files
from mcpg.errors import McpgError

ANSWER_S = 2.0
_SIZE_MAX = 1024 * 1024


class Local(NamedTuple):
    """
    The control plane of one state directory. `state` is running (it answers), silent (its process lives and does not
    answer), stale (the file outlived its process) or stopped (no file). `record` is the file, `meta` what it answered,
    `answered_at` when that was (Unix seconds) and `took_ms` how long it took.
    """

    state: str
    record: dict[str, Any]
    meta: dict[str, Any]
    answered_at: float | None = None
    took_ms: float | None = None


def look(state_dir: Path, *, answer_s: float = ANSWER_S) -> Local:
    """Reads the file, looks for the process, asks it who it is, for *answer_s* at most. Never raises, never writes."""
    found = record(state_dir)
    if not found:
        return Local("stopped", {}, {})
    if not _is_alive(found.get("pid"), found.get("start_ticks")):
        return Local("stale", found, {})
    began = time.monotonic()
    meta = _meta(str(found.get("http_url", "")), answer_s)
    if not meta or meta.get("replica") != found.get("replica"):
        return Local("silent", found, {})
    return Local("running", found, meta, time.time(), round((time.monotonic() - began) * 1000, 1))


class Ready(NamedTuple):
    """What /readyz said: `why` not, "" when it is."""

    ready: bool
    why: str


def readiness(url: str, *, answer_s: float = ANSWER_S) -> Ready | None:
    """Whether the control plane at *url* can do its work. None when what answers says nothing of it; raises Unavailable."""
    from mcpg.cli.client import fetch

    _, said = fetch("GET", f"{url.rstrip('/')}/readyz", seconds=answer_s)
    if not isinstance(said, dict) or not isinstance(said.get("ready"), bool):
        return None
    checks = said.get("checks")
    told = checks if isinstance(checks, dict) else {}
    wrong = [f"{name}: {word}" for name, word in told.items() if isinstance(word, str) and word != "ok"]
    wrong += ["it is stopping"] if told.get("stopping") is True else []
    return Ready(said["ready"], "" if said["ready"] else "; ".join(wrong) or "it does not say why")


def record(state_dir: Path) -> dict[str, Any]:
    """The file as it is, {} when there is none of ours; whether it is still true, `look` says."""
    try:
        raw, _ = files.read(state_dir / "server.json", _SIZE_MAX)
        found = json.loads(raw)
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_alive(pid: object, start_ticks: object) -> bool:
    """Whether that very process lives: a pid is used again, a pid with its start time is not."""
    if not Path("/proc/self/stat").exists():  # not Linux: the pid alone must do
        with contextlib.suppress(OSError, TypeError, ValueError):
            os.kill(int(str(pid)), 0)
            return True
        return False
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:
        return False
    fields = stat.rpartition(")")[2].split()  # the name before it may hold spaces and parentheses
    is_dead = fields[0] in ("Z", "X")  # ended, and its parent has not asked how
    return not is_dead and (start_ticks is None or fields[19] == str(start_ticks))


def _meta(url: str, answer_s: float) -> dict[str, Any]:
    from mcpg.cli.client import Api

    try:
        with contextlib.closing(Api(url, answer_s=answer_s)) as api:
            return api.item("v1", "meta")
    except McpgError:
        return {}
