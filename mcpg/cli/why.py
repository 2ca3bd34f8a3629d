"""`mcpg-ctl operation explain`: what an operation waits for, which moves there are, who drives it, and what to try."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any

from mcpg.cli import history, render, resolve
from mcpg.cli.inputs import connect
from mcpg.cli.operate import FLEET
from mcpg.cli.parse import Line

Row = tuple[str, str]


def explain(line: Line) -> int:
    """Prints why one operation is where it is. Ages are by the server's clock."""
    values = resolve.values(line)
    with contextlib.closing(connect(values)) as api:
        found = api.item(*FLEET, values.id, "explain")
    operation = found.get("operation") or {}
    width = render.terminal_width()
    render.emit(
        values.output, found, table=lambda: _page(found, operation, width), names=[str(operation.get("id", ""))]
    )
    return 0


def _page(found: dict[str, Any], operation: dict[str, Any], width: int | None) -> Iterator[str]:
    now = render.epoch(found.get("at")) or time.time()
    head = " ".join(render.clean(each) for each in history.of(operation, "id", "kind", "name"))
    running = bool(operation.get("running", True))
    since = _since(found.get("since"), now)
    text = f"{head} is {render.clean(operation.get('state', ''))}" + (f" since {since}" if since else "")
    deadline = render.epoch(operation.get("deadline_at"))
    if running and deadline is not None:
        left = (deadline - now) * 1000
        text += f", deadline in {render.took(left)}" if left > 0 else f", deadline {render.took(-left)} ago"
    yield text
    yield from render.columns(list(_facts(found, operation, now)), width=width, indent=2, wrap=True)


def _facts(found: dict[str, Any], operation: dict[str, Any], now: float) -> Iterator[Row]:
    for at, words in enumerate(found.get("blocked") or []):
        yield "stuck" if at == 0 else "", str(words)
    for at, words in enumerate(found.get("paused") or []):
        yield "paused" if at == 0 else "", str(words)
    if found.get("waits_for"):
        seen = f": {found['seen']}" if found.get("seen") else ""
        yield "waits for", f"{found['waits_for']}{seen}"
    for replica in found.get("replicas") or []:
        since = _since(replica.get("since"), now)
        mark = "✓" if replica.get("is_there") else "·"
        words = f"{mark} replica {replica.get('replica')} {replica.get('words', '')}"
        yield "", f"{words} ({since})" if since else words
    if found.get("attempts"):
        next_at = render.epoch(found.get("next_attempt_at"))
        due = "" if next_at is None else f", the next in {render.took(max(next_at - now, 0) * 1000)}"
        why = f": {found['last_failure']}" if found.get("last_failure") else ""
        yield "attempts", f"{found['attempts']} failed{due}{why}"
    last = found.get("last") or {}
    if last:
        ago = _since(last.get("at"), now)
        reason = f": {last['reason']}" if last.get("reason") else ""
        yield "last event", f"#{last.get('seq')} {last.get('event')} by {last.get('actor')}, {ago or 'now'} ago{reason}"
    for at, move in enumerate(found.get("moves") or []):
        yield "can move" if at == 0 else "", _move(move)
    if found.get("lease"):
        yield "lease", str(found["lease"])
    if operation.get("error"):
        yield "error", str(operation["error"])
    for at, command in enumerate(found.get("next") or []):
        yield "try" if at == 0 else "", str(command)


def _move(move: dict[str, Any]) -> str:
    words = f"{move.get('event')} → {move.get('dest')}, by {move.get('by')}"
    if not move.get("guard"):
        return words
    holds = move.get("holds")
    said = "not known here" if holds is None else "yes" if holds else "no"
    guard = str(move["guard"]).replace("_", " ")
    return f"{words}, when {guard}: {said} ({_seen(str(move.get('why') or ''))})"


def _seen(why: str) -> str:
    """The facts that a guard was given, as words: `active 1, replicas 2`."""
    text, _, more = why.partition("; ")
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError):
        return why
    if not isinstance(facts, dict):
        return why
    told = {
        key.replace("_", " "): str(value).lower() if isinstance(value, bool) else value for key, value in facts.items()
    }
    return "; ".join(filter(None, (", ".join(f"{key} {value}" for key, value in told.items()), more)))


def _since(at: str | None, now: float) -> str:
    """How long ago, "" for a time that is not known."""
    then = render.epoch(at)
    return "" if then is None else render.took(max(now - then, 0) * 1000)
