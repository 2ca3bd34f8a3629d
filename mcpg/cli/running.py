"""
What `<state-dir>/server.json` says, and whether it is still true. The server writes that file when it is ready and
removes it when it stops; after a crash it stays, so it is believed only as far as it can be checked.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from mcpg.errors import McpgError

_ANSWER_S = 2.0


class Local(NamedTuple):
    """
    The control plane of one state directory. `state` is running (it answers), silent (its process lives and does not
    answer), stale (the file outlived its process) or stopped (no file). `record` is the file, `meta` what it answered.
    """

    state: str
    record: dict[str, Any]
    meta: dict[str, Any]


def look(state_dir: Path) -> Local:
    """Reads the file, looks for the process, asks it who it is. Never raises, never writes."""
    record = _record(state_dir)
    if not record:
        return Local("stopped", {}, {})
    if not _is_alive(record.get("pid"), record.get("start_ticks")):
        return Local("stale", record, {})
    meta = _meta(str(record.get("http_url", "")))
    same = bool(meta) and meta.get("replica") == record.get("replica")
    return Local("running" if same else "silent", record, meta if same else {})


def _record(state_dir: Path) -> dict[str, Any]:
    try:
        record = json.loads((state_dir / "server.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


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
    return start_ticks is None or fields[19] == str(start_ticks)


def _meta(url: str) -> dict[str, Any]:
    from mcpg.cli.client import Api

    try:
        with contextlib.closing(Api(url, answer_s=_ANSWER_S)) as api:
            return api.item("v1", "meta")
    except McpgError:
        return {}
