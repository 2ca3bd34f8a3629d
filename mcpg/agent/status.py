"""What an agent has stored and whether one runs, for `mcpg-ctl gateway-status`. Reads files only, and creates none."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from mcpg import errors
from mcpg.agent import credentials, events, lkg
from mcpg.agent.child_record import directory, living
from mcpg.agent.credentials import Credentials
from mcpg.agent.enrolment_url import NEXT
from mcpg.host import processes

# What the running agent says of itself, as it is shown.
_SAID: Final = (
    "version", "up_since", "state", "endpoint", "session_open_since", "next_retry_at", "last_error", "listener",
    "config", "config_refused",
)  # fmt: skip

Problem = dict[str, str]


def status(state_dir: Path) -> dict[str, Any]:
    """
    What is stored and what runs: plain JSON, times RFC 3339, None where nothing is known, never a secret.

    Works with nothing stored. What cannot be read is an entry of `problems` (`problem`, `fix`) and not an error,
    because a status is most wanted when something is broken.
    """
    problems: list[Problem] = []

    def tried(reader: Callable[..., Any], *args: Any) -> Any:
        try:
            return reader(*args)
        except errors.McpgError as error:
            what = f"{error.what}: {error.cause}" if error.cause else error.what
            problems.append({"problem": what, "fix": error.hint})
            return None

    creds = tried(credentials.read, state_dir)
    enrolment = tried(credentials.read_json, credentials.enrolment_path(state_dir)) or {}
    said = tried(credentials.read_json, events.running_path(state_dir)) or {}
    found = {
        "enrolled": creds is not None,
        "state_dir": str(state_dir),
        "instance_id": creds.instance_id if creds else None,
        "instance_uid": enrolment.get("instance_uid"),
        "registered_at": enrolment.get("registered_at"),
        **_lifetime(creds),
        "endpoint": tried(credentials.read_pairing, state_dir),
        "lkg": _last_known_good(state_dir, tried),
        "agent": _agent(state_dir, said),
        "problems": problems,
    }
    problems.extend(_troubles(found, _again(state_dir, said.get("command"))))
    return found


def _lifetime(creds: Credentials | None) -> dict[str, Any]:
    expires = creds.expires_at if creds else None
    left = None if expires is None else int(expires - time.time())
    return {
        "issued_at": creds.issued_at if creds else None,
        "expires_at": None if expires is None else credentials.rfc3339(expires),
        "expires_in_s": None if left is None else max(0, left),
        "expired": left is not None and left <= 0,
    }


def _last_known_good(state_dir: Path, tried: Callable[..., Any]) -> dict[str, Any] | None:
    """What is served when the control plane is gone: the names in it, never what stands behind them."""
    good = tried(lkg.read, credentials.agent_dir(state_dir))
    if good is None:
        return None
    from mcpg.agent.inventory import offered  # noqa: PLC0415 - YAML, which is needed now only

    names = tried(offered, good.bundle.config_toml.decode("utf-8", "replace")) or {"tools": []}
    return {"config_hash": good.config_hash, "written_at": good.written_at, **names}


def _agent(state_dir: Path, said: dict[str, Any]) -> dict[str, Any]:
    """
    `running` is true for the very process that wrote the file (pid and start time), or whoever holds the lock.

    A file whose process is gone is `stale`: that agent was killed. What it said last is shown, its state is not. The pid
    of a data plane is the one that runs now: it outlives an agent that was killed.
    """
    pid = said.get("pid")
    lives = isinstance(pid, int) and bool(said.get("started")) and processes.started_at(pid) == said["started"]
    holder = credentials.lock_holder(state_dir)
    running = lives or holder is not None
    return {
        "running": running,
        "stale": bool(said) and not lives,
        "pid": pid if lives else holder,
        "written_at": said.get("written_at"),
        "age_s": _age_s(said.get("written_at")),
        **{key: said.get(key) for key in _SAID},
        **({} if lives else {"state": None, "session_open_since": None, "next_retry_at": None}),
        "dataplane": _dataplane(state_dir, said.get("dataplane")),
    }


def _dataplane(state_dir: Path, said: Any) -> dict[str, Any] | None:
    if not isinstance(said, dict):
        return None
    return {**said, "pid": living(state_dir)} if said.get("kind") == "exec" else said


def _age_s(at: Any) -> int | None:
    try:
        return max(0, int(time.time() - datetime.fromisoformat(str(at)).timestamp()))
    except ValueError:
        return None


def _again(state_dir: Path, command: Any) -> str:
    """The command that runs the agent again as it was run."""
    is_known = isinstance(command, list) and all(isinstance(word, str) for word in command)
    return shlex.join(command if is_known else ["mcpg-ctl", "gateway", "--state-dir", str(state_dir)])


def _troubles(found: dict[str, Any], again: str) -> list[Problem]:
    """What somebody should do something about, besides files that cannot be read."""
    agent, trouble = found["agent"], []
    if found["expired"]:
        trouble.append({"problem": "the credentials have expired", "fix": NEXT})
    dataplane = agent["dataplane"] or {}
    if agent["stale"] and not agent["running"]:
        left = f"; its data plane, pid {dataplane['pid']}, still serves" if dataplane.get("pid") else ""
        trouble.append({"problem": f"the agent did not stop cleanly and does not run{left}", "fix": again})
    elif not agent["running"] and (pid := living(Path(found["state_dir"]))) is not None:
        trouble.append({"problem": f"a data plane, pid {pid}, serves without an agent", "fix": f"kill {pid}"})
    if agent["running"] and dataplane.get("trouble"):
        log = directory(Path(found["state_dir"])) / "log"
        trouble.append({"problem": str(dataplane["trouble"]), "fix": f"less {log}"})
    if agent["running"] and isinstance(refused := agent["config_refused"], dict):
        trouble.append({"problem": f"a config was refused: {refused.get('reason')}", "fix": "publish another"})
    return trouble
