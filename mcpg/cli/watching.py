"""
`mcpg-ctl operation watch` and `operation wait`: transitions as they happen, and silence until something is over.

Both outlive a cut connection and a restart of the control plane: they go on after the last event they have seen.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from mcpg.cli import render, resolve
from mcpg.cli.alarm import Alarm, alarm
from mcpg.cli.client import Api, Cut
from mcpg.cli.follow import BACKOFF_S, PATIENCE_S, SLOW_S, Following, is_unreachable
from mcpg.cli.history import of, where
from mcpg.cli.inputs import connect
from mcpg.cli.ladder import PAUSED, Silent
from mcpg.cli.operate import FLEET
from mcpg.cli.operation import outcome
from mcpg.cli.parse import Line
from mcpg.cli.talk import tell
from mcpg.errors import Failed, McpgError, TimedOut, Unreachable, Usage

Event = dict[str, Any]

_WIDTHS = (12, 13, 6, 12, 16)  # fixed, for a later row cannot move an earlier one; names, which may be long, come last
_HEAD = ("AT (UTC)", "OPERATION", "KIND", "STATE", "NAME", "")
_WIDE_WIDTHS = (24, 13, 6, 12, 12, 16, 16, 24)
_WIDE = ("AT", "OPERATION", "KIND", "STATE", "EVENT", "ACTOR", "NAME", "WHERE", "")
_PAUSED_S = 2.0  # between two looks at an operation that waits for an operator
_TIMED_OUT = 124


def watch(line: Line) -> int:
    """
    Prints a line for every transition of every operation from now on, until Ctrl-C or --timeout; with an id every one of
    that operation, until it ends.
    """
    values = resolve.values(line)
    patience_s = PATIENCE_S if values.timeout is None else math.inf
    with contextlib.closing(connect(values)) as api:

        def say(text: str) -> None:
            tell(render.clean(text), as_logs=values.json_logs, event="resumed")

        try:
            with alarm(values.timeout):
                if values.id:
                    found = api.item(*FLEET, values.id)
                    whose = {key: found.get(key, "") for key in ("org", "workspace", "environment", "name", "kind")}
                    events = lines(api, (*FLEET, str(found.get("id", "")), "events"), "0", say, patience_s=patience_s)
                else:
                    whose, events = {}, lines(api, ("v1", "events"), "", say, patience_s=patience_s)
                _print_all(values.output, events, whose)
        except Alarm:
            return _TIMED_OUT
    return 0


def wait(line: Line) -> int:
    """Returns when all of them are over: 0 when all ended well, 1 when any did not. Shows nothing but `-o json`."""
    values = resolve.values(line)
    ids = [each.strip() for each in values.id.split(",")]
    if not all(ids):
        raise Usage(
            f"{line.prog} operation wait needs the id of every operation to wait for",
            cause="no id was given" if not any(ids) else f"{ids.count('')} of {len(ids)} ids are empty",
            hint="mcpg-ctl operation list --running",
        )
    patience_s = PATIENCE_S if values.timeout is None else math.inf
    over: list[Event] = []
    with contextlib.closing(connect(values)) as api:
        asked: list[Event] = []
        try:
            with alarm(values.timeout):
                asked += [api.item(*FLEET, each) for each in ids]
                for each in asked:
                    over.append(_over(api, str(each.get("id", "")), patience_s))  # noqa: PERF401  kept when time is up
        except Alarm:
            raise _pending(asked[len(over) :], values.timeout) from None
    render.emit(values.output, over, table=list, names=[str(each.get("id", "")) for each in over])
    bad = [each for each in over if outcome(each)]
    if not bad:
        return 0
    raise Failed(
        f"{len(bad)} of {len(over)} operations did not end well",
        cause=" · ".join(f"{_words(each)}: {each.get('error') or each.get('final_phase')}" for each in bad),
        hint=" and ".join(f"mcpg-ctl operation show {each.get('id')}" for each in bad[:3]),
        operations=[each.get("id") for each in bad],
    )


def lines(
    api: Api,
    path: tuple[str, ...],
    after: str,
    say: Callable[[str], None],
    *,
    patience_s: float = PATIENCE_S,
    pause: Callable[[float], None] = time.sleep,
) -> Iterator[Event]:
    """
    The events of a stream, each once, over cuts and restarts, until its `end` event. *after* is the id to start after,
    "" from now on. Raises Unreachable after *patience_s* of silence, and at once when the first try finds nothing.
    """
    tries, silent_s, is_open = 0, 0.0, False  # tries since the last event, seconds since anything answered
    while True:
        stream, is_silent = None, False
        try:
            with api.stream("GET", *path, headers={"last-event-id": after} if after else {}) as stream:
                is_open = True
                for name, event in stream.events():
                    tries = 0
                    if name == "end":
                        return
                    yield event
            why = "the stream ended"
        except Cut as cut:
            why = str(cut)
        except McpgError as exc:
            if not is_open or not is_unreachable(exc):
                raise
            if silent_s >= patience_s:
                raise Unreachable(exc.what, cause=exc.cause, hint=exc.hint, last_event_id=after) from None
            why, is_silent = exc.cause, True
        after = (stream.last_id if stream is not None else "") or after
        if tries == 0:
            say(f"connection lost, going on {f'after event {after}' if after else 'from now'}: {why}")
        wait_s = BACKOFF_S[tries] if tries < len(BACKOFF_S) else SLOW_S
        pause(wait_s)
        tries, silent_s = tries + 1, silent_s + wait_s if is_silent else 0.0


def _print_all(output: str, events: Iterator[Event], whose: Event) -> None:
    """One flushed row or object an event: a reader behind a pipe has each as it happens."""
    width = render.terminal_width()
    is_wide = output == "wide"
    if output in ("table", "wide"):
        _print(_row(_WIDE, _WIDE_WIDTHS, width) if is_wide else _row(_HEAD, _WIDTHS, width))
    for event in events:
        full = {**event, **whose}
        if output == "yaml":
            sys.stdout.write("---\n")
        render.emit(
            "jsonl" if output == "json" else output,
            full,
            table=lambda full=full: [_row(_cells(full), _WIDTHS, width)],  # type: ignore[misc]
            wide=lambda full=full: [_row(_wide_cells(full), _WIDE_WIDTHS, width)],  # type: ignore[misc]
            names=[str(full.get("operation_id", ""))],
        )
        sys.stdout.flush()


def _print(row: str) -> None:
    sys.stdout.write(f"{row}\n")
    sys.stdout.flush()


def _row(cells: tuple[str, ...], widths: tuple[int, ...], width: int | None) -> str:
    padded = [f"{render.clean(cell):<{size}}" for cell, size in zip(cells, widths, strict=False)]
    line = "  ".join((*padded, render.clean(cells[-1]))).rstrip()
    return line if width is None or len(line) <= width else line[: width - 1] + "…"


def _cells(event: Event) -> tuple[str, ...]:
    at = str(event.get("at", "")).partition("T")[2].rstrip("Z")
    return at, *of(event, "operation_id", "kind", "state", "name"), _message(event)


def _wide_cells(event: Event) -> tuple[str, ...]:
    parts = of(event, "at", "operation_id", "kind", "state", "event", "actor", "name")
    return *parts, where(event, fleet=True), _message(event)


def _message(event: Event) -> str:
    message, reason = of(event, "message", "reason")
    return message if reason in message else f"{message} ({reason})" if message else reason


def _over(api: Api, operation_id: str, patience_s: float) -> Event:
    """The operation once it is over. One that waits for an operator is not."""
    following = Following(api, FLEET, Silent(), patience_s=patience_s)
    while following.attached(operation_id).get("phase") == PAUSED:
        time.sleep(_PAUSED_S)
    return api.item(*FLEET, operation_id)


def _pending(operations: list[Event], timeout: float) -> TimedOut:
    if not operations:
        return TimedOut("the control plane did not say in time what there is to wait for", cause=f"{timeout:g}s passed")
    ids = [str(each.get("id", "")) for each in operations]
    return TimedOut(
        f"{len(ids)} {'operation is' if len(ids) == 1 else 'operations are'} still pending",
        cause=f"not over after {timeout:g}s: {' · '.join(map(_words, operations))}",
        hint=f"mcpg-ctl operation attach {ids[0]}",
        operations=ids,
    )


def _words(operation: Event) -> str:
    return " ".join(of(operation, "id", "kind", "name"))
