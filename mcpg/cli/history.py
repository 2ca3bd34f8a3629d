"""
`mcpg-ctl provision history`: recent operations as a table, or each with every transition.

How operations and journal lines look is said here once: `operation list` and `show` and `cluster show` use it too.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterable
from typing import Any

from mcpg.cli import render, resolve
from mcpg.cli.inputs import connect
from mcpg.cli.parse import Line

Operation = dict[str, Any]

_HEAD = ("OPERATION", "KIND", "NAME", "WHERE", "PHASE", "TOOK", "STARTED", "BY", "ERROR")
_WIDE = ("OPERATION", "KIND", "NAME", "WHERE", "PHASE", "STATE", "TOOK", "STARTED AT", "BY", "CLUSTER", "REGION")
_WIDE_TAIL = ("REPLICAS", "INSTANCE", "TRANSITIONS", "DEFINITION", "ERROR")
_SHOWN_ATTEMPTS = 3  # of those in a row; -o json and -o wide have all
_STEPS = ("#", "at", "state", "event", "actor", "in state", "")


def history(line: Line) -> int:
    """Prints the operations of one org, newest first. `-o json` is the server's array, unchanged."""
    values = resolve.values(line)
    with contextlib.closing(connect(values)) as api:
        asked = {"limit": str(values.limit)} | ({"history": "true"} if values.verbose else {})
        if values.name:
            operations = api.items("v1", "operations", **asked, org=values.org, name=values.name)
        else:
            operations = api.items("v1", "orgs", values.org, "operations", **asked)
    now = time.time()
    width = render.terminal_width()

    def table() -> Iterable[str]:
        if not operations:
            return [f"no operations {f'of {values.name}' if values.name else 'yet'} in {values.org}"]
        return verbose(operations, now, width) if values.verbose else short(operations, now, width)

    render.emit(
        values.output,
        operations,
        table=table,
        wide=None if values.verbose or not operations else lambda: wide(operations),
        names=[str(operation.get("id", "")) for operation in operations],
    )
    return 0


def short(operations: list[Operation], now: float, width: int | None, *, fleet: bool = False) -> list[str]:
    """One row an operation; of a whole *fleet*, with its org. A long error is cut also where there is no terminal."""
    rows = [
        (
            *of(operation, "id", "kind", "name"),
            where(operation, fleet=fleet),
            *of(operation, "final_phase"),
            _took(operation),
            render.ago(operation.get("started_at"), now),
            *of(operation, "actor"),
            render.brief(*of(operation, "error")),
        )
        for operation in operations
    ]
    return render.columns([_HEAD, *rows], width=width)


def wide(operations: list[Operation], *, fleet: bool = False) -> list[str]:
    """As `short`, with times as they are and everything else there is. Never cut: who asks for all of it gets it."""
    rows = [
        (
            *of(operation, "id", "kind", "name"),
            where(operation, fleet=fleet),
            *of(operation, "final_phase", "state"),
            _took(operation),
            *of(operation, "started_at", "actor", "cluster", "region", "replicas", "instance_uid", "transitions"),
            *of(operation, "definition", "error"),
        )
        for operation in operations
    ]
    return render.columns([_WIDE + _WIDE_TAIL, *rows])


def verbose(operations: list[Operation], now: float, width: int | None) -> Iterable[str]:
    """Each operation with a line for every transition, as the journal has them."""
    for operation in operations:
        yield headline(operation, now)
        yield from steps(operation.get("history") or [], width)
        yield from tail(operation)


def headline(operation: Operation, now: float, *, fleet: bool = False) -> str:
    """The first line of one operation: what, where, how far, how long."""
    head = [
        *of(operation, "id", "kind", "name"),
        where(operation, fleet=fleet),
        *of(operation, "final_phase"),
        _took(operation),
        render.ago(operation.get("started_at"), now),
        f"by {operation.get('actor', '')}",
    ]
    return "  ".join(render.clean(each) for each in head if each)


def steps(lines: list[dict[str, Any]], width: int | None) -> list[str]:
    """Journal lines as rows under a head; of many attempts in a row the first and the last two."""
    return render.columns([_STEPS, *_rows(lines)], width=width, indent=2, right=frozenset((0,)), wrap=True)


def _rows(lines: list[dict[str, Any]]) -> Iterable[tuple[str, ...]]:
    for has_failed, run in itertools.groupby(lines, _failed):
        found = list(run)
        left_out = len(found) - _SHOWN_ATTEMPTS if has_failed else 0
        if left_out < 2:
            yield from map(_step, found)
            continue
        yield _step(found[0])
        yield ("…", "", "", "", "", "", f"{left_out} more attempts that failed")
        yield from map(_step, found[left_out + 1 :])


def _failed(step: dict[str, Any]) -> bool:
    """Whether the line is an attempt that failed. The same event of a person is an order to try again now."""
    return step.get("event") == "retry" and step.get("actor") == "engine"


def tail(operation: Operation) -> Iterable[str]:
    """The last lines of one operation: its error, the machine that ran it, whether its chain holds, where its time went."""
    if operation.get("error"):
        yield f"  error {render.clean(operation['error'])}"
    lines: list[dict[str, Any]] = operation.get("history") or []
    retries = sum(map(_failed, lines))
    many = counts(operation.get("transitions", len(lines)), retries)
    definition = f"definition {operation.get('definition') or '?'}"
    words = [render.clean(definition), *([chain(operation, lines)] if lines else []), many]
    yield f"  {' · '.join(words)}{'' if not operation.get('running') else ', still running'}"
    totals: dict[str, float] = {}
    for each in lines:
        if each.get("in_state_ms") is not None:
            state = str(each.get("dest") or "")
            totals[state] = totals.get(state, 0.0) + float(each["in_state_ms"])
    if operation.get("running") and lines and operation.get("duration_ms") is not None:  # the state it is in counts too
        state, since = str(lines[-1].get("dest") or ""), float(lines[-1].get("offset_ms") or 0)
        totals[state] = totals.get(state, 0.0) + max(float(operation["duration_ms"]) - since, 0.0)
    yield from spent(totals)


def counts(transitions: int, retries: int) -> str:
    """`5 transitions, 0 retries`."""
    return f"{transitions} transition{'s' * (transitions != 1)}, {retries} retr{'y' if retries == 1 else 'ies'}"


def spent(totals: dict[str, float]) -> Iterable[str]:
    """Where the time went: milliseconds by state, as one line; none where nothing has been left yet."""
    if totals:
        each = (f"{render.clean(state)} {render.took(ms)}" for state, ms in totals.items())
        yield f"  {render.took(sum(totals.values()))} in all: {' · '.join(each)}"


def chain(operation: Operation, lines: list[dict[str, Any]]) -> str:
    """Whether each line holds the hash of the one before it, worked out here and not taken from the server."""
    from mcpg.machines.chain import broken, entry

    try:
        found = [entry(str(operation.get("machine", "")), each) for each in lines]
    except (KeyError, TypeError):  # of a control plane that does not say all that a hash covers
        return "chain not checked"
    at = broken(str(operation.get("id", "")), found)
    return f"chain broken at {at}" if at else "chain ok"


def _step(step: dict[str, Any]) -> tuple[str, ...]:
    source, dest = step.get("source") or "", step.get("dest") or ""
    message, reason = str(step.get("message") or ""), str(step.get("reason") or "")
    return (
        str(step.get("seq", "")),
        f"+{float(step.get('offset_ms') or 0) / 1000:.3f}",
        f"{source} → {dest}" if source else dest,
        str(step.get("event") or ""),
        str(step.get("actor") or "") + (f" #{step['attempt']}" if step.get("attempt") else ""),
        render.took(step.get("in_state_ms")),
        message if reason in message else f"{message} ({reason})" if message else reason,
    )


def of(found: dict[str, Any], *fields: str) -> list[str]:
    """These fields as text, "" for what is null or not there."""
    return [str(value) if (value := found.get(field)) is not None else "" for field in fields]


def where(operation: Operation, *, fleet: bool = False) -> str:
    """`prod/us`; of a whole *fleet* `acme/prod/us`."""
    return "/".join(of(operation, *(("org",) if fleet else ()), "workspace", "environment"))


def _took(operation: Operation) -> str:
    return render.took(operation.get("duration_ms")) + (" so far" if operation.get("running") else "")
