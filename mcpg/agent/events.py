"""
What our gateway tells of itself: events, a line each on stderr; and the file in which `gateway-status` reads the last.

Called by every part of the agent (`Tell`), by process.py for the lines, by gateway.py for the file, by status.py to
read it. Nothing told is ever a secret.

    <state>/gateway-agent/running.json      0600; what the running agent last told, which process it is, how it was run
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from mcpg import __version__, errors
from mcpg.agent import credentials
from mcpg.host import processes

if TYPE_CHECKING:
    from mcpg.agent.gateway_link import Ended  # gRPC, which `gateway-status` has no use for
    from mcpg.settings import Agent

Tell = Callable[[str, dict[str, Any]], None]

MAX_WORDS: Final = 500
SEEN_S: Final = 10.0
WARNINGS: Final = frozenset(
    {
        "config_refused",
        "credentials_rejected",
        "dataplane_ended",
        "deregister_failed",
        "identity_shared",
        "lkg_not_written",
        "lkg_unusable",
        "quarantined",
        "register_failed",
        "register_refused",
        "state_not_written",
    }
)


def clean(text: str, limit: int = MAX_WORDS) -> str:
    """Text from elsewhere, without what could move a terminal's cursor, and not endless."""
    return "".join(sign if sign.isprintable() else " " for sign in text[:limit])


def told(ended: Ended) -> dict[str, Any]:
    """How a call ended, as the fields of an event."""
    return {"code": ended.code.name, "reason": clean(ended.reason)}


def log_line(name: str, fields: dict[str, Any], *, as_json: bool) -> str:
    """One event as one line; text from elsewhere cannot break out of it."""
    head = {"at": credentials.now_rfc3339(), "level": "warning" if name in WARNINGS else "info", "event": name}
    if as_json:
        return json.dumps({**head, **fields})
    shown = [
        f"{key}={json.dumps(value) if not isinstance(value, str) or ' ' in value or not value else value}"
        for key, value in fields.items()
    ]
    return clean(" ".join([*head.values(), *shown]), limit=2 * MAX_WORDS)


def running_path(state_dir: Path) -> Path:
    return credentials.agent_dir(state_dir) / "running.json"


def command(settings: Agent) -> list[str]:
    """The command that runs this agent again, from any directory; without the enrolment URL, which is a secret."""
    at = urlsplit(settings.cp_grpc)
    words = {
        "exec": str(Path(settings.exec).expanduser().absolute()) if "/" in settings.exec else settings.exec,
        "config": str(Path(settings.config).absolute()) if settings.config else "",
        "cp_grpc": f"{at.scheme}://{at.netloc.rpartition('@')[2]}",  # people put passwords into URLs
        "instance_uid": settings.instance_uid,
        "drain_timeout_s": f"{settings.drain_timeout_s:g}",
    }
    given = [(field, word) for field, word in words.items() if field in settings.model_fields_set and word]
    flags = [part for field, word in given for part in (f"--{field.replace('_', '-')}", word)]
    return ["mcpg-ctl", "gateway", "--state-dir", str(settings.state_dir), *flags]


class Running:
    """
    The file of a running agent, kept up by its events. *facts* says how its data plane is, asked at each writing.

    Written when something is told, and with the status reports (`seen`), so that its age says that the agent lives.
    """

    def __init__(self, settings: Agent, endpoint: str, facts: Callable[[], dict[str, Any]]) -> None:
        self._path = running_path(settings.state_dir)
        self._facts = facts
        self._written = 0.0
        self._known: dict[str, Any] = {
            "pid": os.getpid(),
            "started": processes.started_at(os.getpid()),
            "boot": _boot_id(),
            "version": __version__,
            "command": command(settings),
            "up_since": credentials.now_rfc3339(),
            "state": "starting",
            "endpoint": endpoint,
            "session_open_since": None,
            "next_retry_at": None,
            "last_error": None,
            "config": None,
            "config_refused": None,
        }

    def note(self, name: str, fields: dict[str, Any]) -> None:
        """Takes an event over into the file."""
        now = credentials.now_rfc3339()
        match name:
            case "listening":
                self._known |= {"state": "serving", "listener": fields}
            case "session_opened":
                self._known |= {"session_open_since": now, "next_retry_at": None}
            case "session_ended" | "register_failed" | "register_refused":
                retry_at = credentials.rfc3339(time.time() + fields["retry_in_s"]) if "retry_in_s" in fields else None
                error = {"at": now, "event": name, "code": fields["code"], "reason": fields["reason"]}
                self._known |= {"session_open_since": None, "next_retry_at": retry_at, "last_error": error}
            case "config_loaded" | "config_applied":
                self._known |= {"config": {"source": "pushed", "config_hash": None, **fields, "at": now}}
            case "config_refused":
                self._known |= {"config_refused": {**fields, "at": now}}
            case "draining":
                self._known |= {"state": "draining"}
        self._write()

    def seen(self) -> None:
        """The agent lives; told again at most once in SEEN_S seconds."""
        if time.monotonic() - self._written >= SEEN_S:
            self._write()

    def end(self) -> None:
        """It ends as planned and leaves no file."""
        self._path.unlink(missing_ok=True)

    def _write(self) -> None:
        self._written = time.monotonic()
        document = {**self._known, "dataplane": self._facts(), "written_at": credentials.now_rfc3339()}
        # Who cannot write it is told where something is lost by it; this file is only looked at.
        with contextlib.suppress(errors.StateDir):
            credentials.write_atomically(self._path, json.dumps(document, indent=2).encode() + b"\n", durable=False)


def _boot_id() -> str:
    try:
        return processes.boot_id()
    except OSError:  # not Linux
        return ""
