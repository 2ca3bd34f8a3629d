"""`mcpg-ctl operation list|show|attach|export`: what was asked for, of every org. Waiting for it: mcpg/cli/watching.py."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mcpg.cli import history, render, resolve
from mcpg.cli.inputs import connect
from mcpg.cli.operate import FLEET
from mcpg.cli.operate import attach as view
from mcpg.cli.parse import Line
from mcpg.cli.render import Row
from mcpg.errors import McpgError, Usage

Operation = dict[str, Any]

_OK, _FAILED, _PENDING = 0, 1, 8
_STEPS = ("#", "at", "state", "event", "actor", "hash", "facts")


def index(line: Line) -> int:
    """Prints the operations of every org, newest first. `-o json` is the server's array, unchanged."""
    values = resolve.values(line)
    asked = {field: getattr(values, field) for field in ("org", "kind", "name") if getattr(values, field)}
    asked |= {"running": "true"} if values.running else {}
    with contextlib.closing(connect(values)) as api:
        found = api.items(*FLEET, limit=str(values.limit), **asked)
    now = time.time()
    width = render.terminal_width()
    meant = " ".join(f"{key}={value}" for key, value in asked.items())
    none = [f"no operations with {meant}" if asked else "no operations yet"]
    render.emit(
        values.output,
        found,
        table=lambda: history.short(found, now, width, fleet=True) if found else none,
        wide=lambda: history.wide(found, fleet=True) if found else none,
        names=[str(each.get("id", "")) for each in found],
    )
    return _OK


def show(line: Line) -> int:
    """Prints one operation and every move it made; with --exit-status the exit code says how it is."""
    values = resolve.values(line)
    with contextlib.closing(connect(values)) as api:
        found = api.item(*FLEET, values.id)
    now = time.time()
    width = render.terminal_width()
    steps = found.get("history") or []

    def page(lines: list[str]) -> Iterator[str]:
        yield history.headline(found, now, fleet=True)
        yield from render.columns(list(_facts(found, now)), width=width, indent=2)
        yield from lines
        yield from history.tail(found)

    render.emit(
        values.output,
        found,
        table=lambda: page(history.steps(steps, width)),
        wide=lambda: page(render.columns([_STEPS, *map(_step, steps)], indent=2, right=frozenset((0,)))),
        names=[str(found.get("id", ""))],
    )
    return outcome(found) if values.exit_status else _OK


def attach(line: Line) -> int:
    """Shows an operation's ladder from its first event, as `provision create` did, and ends as that would have."""
    values = resolve.values(line)
    with contextlib.closing(connect(values)) as api:
        return view(api, values, api.item(*FLEET, values.id))


def export(line: Line) -> int:
    """The server's bytes, unchanged, on stdout or in a new file."""
    values = resolve.values(line)
    target = _target(values.file) if values.file and values.file != "-" else None
    if target is not None:
        _refuse(target, values.force)
    with contextlib.closing(connect(values)) as api:
        said = api.raw(*FLEET, values.id, "export")
    if target is None:
        sys.stdout.flush()
        sys.stdout.buffer.write(said)
    else:
        _written(target, said, values.force)
    return _OK


def outcome(operation: Operation) -> int:
    """0 it ended well, 1 it did not, 8 it runs or waits for an operator."""
    if operation.get("running", True):
        return _PENDING
    return _OK if operation.get("final_phase") in ("ready", "deleted") else _FAILED


def _facts(operation: Operation, now: float) -> Iterator[Row]:
    if operation.get("instance_uid"):
        yield "instance", str(operation["instance_uid"])
    if operation.get("cluster"):
        yield "cluster", ", region ".join(filter(None, history.of(operation, "cluster", "region")))
    if operation.get("replicas"):
        yield "replicas", str(operation["replicas"])
    deadline = render.epoch(operation.get("deadline_at"))
    left = ""
    if deadline is not None:
        took = render.took(abs(deadline - now) * 1000)
        left = f", deadline in {took}" if deadline > now else f", deadline {took} ago"
    paused = f", in {operation['paused_in']}" if operation.get("paused_in") else ""
    yield "state", f"{operation.get('state', '')}{paused}{left}"
    due = render.epoch(operation.get("next_attempt_at"))
    if due is not None:
        when = f"in {render.took((due - now) * 1000)}" if due > now else "now"
        yield "attempt", f"{int(operation.get('attempt') or 0) + 1}, {when}"
    if operation.get("damaged"):
        columns = " and ".join(map(str, operation["damaged"]))
        yield "damaged", f"the row's {columns} cannot be read, it was edited; mcpg-ctl audit verify tells more"
    if operation.get("retry_of"):
        yield "retry of", str(operation["retry_of"])
    yield "started", str(operation.get("started_at") or "?")
    if operation.get("finished_at"):
        yield "finished", str(operation["finished_at"])


def _step(step: dict[str, Any]) -> Row:
    facts = step.get("facts") or {}
    said = " ".join(f"{name}={value}" for name, value in facts.items()) if isinstance(facts, dict) else ""
    return (*history.of(step, "seq", "at", "dest", "event", "actor"), str(step.get("hash") or "")[:12], said)


def _target(where: str) -> Path:
    try:
        target = Path(where).expanduser()
    except RuntimeError as exc:
        raise Usage(f"--file {where} cannot be expanded", cause=str(exc), hint="--file FILE") from None
    if not target.name or target.is_dir():
        raise Usage(f"--file {where} is a directory", cause="an export is one file", hint="--file FILE")
    return target


def _refuse(target: Path, force: bool) -> None:
    """Only a file gives way, and only to --force: never a link, a device or a pipe."""
    if not os.path.lexists(target):
        return
    if not stat.S_ISREG(target.lstat().st_mode):
        raise McpgError(
            f"{target} is not a regular file", cause="an export replaces nothing else", hint="--file FILE, another one"
        )
    if not force:
        raise McpgError(
            f"{target} exists already", cause="an export overwrites nothing", hint="--force, or another FILE"
        )


def _written(target: Path, said: bytes, force: bool) -> None:
    """The whole file or none of it. Raises McpgError when it cannot be written, or another one came first."""
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with part.open("xb") as file:
            file.write(said)
            file.flush()
            os.fsync(file.fileno())
        _refuse(target, force)
        part.replace(target)
    except OSError as exc:
        raise McpgError(f"{target} cannot be written", cause=exc.strerror or str(exc), hint="--file FILE") from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
