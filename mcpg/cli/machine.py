"""`mcpg-ctl machine list|show`: the declared state machines, and how many rows rest in each state."""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import Iterator
from typing import Any

from mcpg.cli import render, resolve
from mcpg.cli.history import of
from mcpg.cli.inputs import connect
from mcpg.cli.parse import Line
from mcpg.cli.render import Row

_PAGE = 80  # columns of a page that is not shown on a terminal; prose wraps there, nothing is cut
_NARROW = 20
_HEAD = ("MACHINE", "DEFINITION", "STATES", "MOVES", "ROWS")


def index(line: Line) -> int:
    """Prints every machine that this control plane runs."""
    values = resolve.values(line)
    with contextlib.closing(connect(values)) as api:
        machines = api.items("v1", "machines")
    rows = [
        (*of(each, "name", "definition", "states", "moves"), render.counted(_nonzero(each.get("rows"))))
        for each in machines
    ]
    render.emit(
        values.output,
        machines,
        table=lambda: render.columns([_HEAD, *rows], width=render.terminal_width()),
        names=[str(each.get("name", "")) for each in machines],
    )
    return 0


def show(line: Line) -> int:
    """Prints one machine: its states, what each waits for, and the moves between them; or its diagram, as text or drawn."""
    values = resolve.values(line)
    with contextlib.closing(connect(values)) as api:
        machine = api.item("v1", "machines", values.name)
    width = render.terminal_width() or _PAGE
    render.emit(
        values.output,
        machine,
        table=lambda: _drawn(values.output, machine) or _page(machine, width),
        names=[str(machine.get("definition", ""))],
    )
    return 0


def _drawn(output: str, machine: dict[str, Any]) -> Iterator[str] | None:
    if output == "svg":
        from mcpg.cli.drawing import svg

        return svg(machine)
    return text_lines(str(machine.get("mermaid", "")).split("\n")) if output == "mermaid" else None


def text_lines(lines: list[str]) -> Iterator[str]:
    """Lines of a diagram, each with its indent."""
    while lines and not lines[-1]:
        lines = lines[:-1]
    for line in lines:
        yield line[: len(line) - len(line.lstrip(" "))] + render.clean(line)


def _page(machine: dict[str, Any], width: int) -> Iterator[str]:
    yield render.clean(machine.get("definition", ""))
    yield from textwrap.wrap(render.clean(machine.get("title", "")), width)
    yield ""
    final = set(machine.get("final") or [])
    failures = set(machine.get("failures") or [])
    rows = [
        ("STATE", "PHASE", "ROWS", "RESTS"),
        *(_state(each, final, failures) for each in machine.get("states") or []),
    ]
    lines = render.columns(rows)
    indent = max(map(len, lines)) + 2
    yield f"{lines[0]:<{indent}}ABOUT"
    for line, state in zip(lines[1:], machine.get("states") or [], strict=True):
        first, *more = textwrap.wrap(render.clean(state.get("about", "")), max(width - indent, _NARROW)) or [""]
        yield f"{line:<{indent}}{first}".rstrip()
        yield from (" " * indent + text for text in more)
    yield ""
    moves = machine.get("moves") or []
    yield from render.columns([("FROM", "EVENT", "TO", "GUARD"), *map(_move, moves)], width=width)


def _state(state: dict[str, Any], final: set[str], failures: set[str]) -> Row:
    name, rest = state.get("name", ""), state.get("rest") or {}
    ends = "failure" if name in failures else "final" if name in final else ""
    timeout = f" {render.took(float(rest['timeout_s']) * 1000)}" if rest.get("timeout_s") else ""
    return (
        str(name),
        *of(state, "phase"),
        str(state.get("rows") or "–"),
        ends or f"{rest.get('kind', '')}{timeout}",
    )


def _move(move: dict[str, Any]) -> Row:
    return tuple(of(move, "source", "event", "dest", "guard"))


def _nonzero(rows: object) -> dict[str, int]:
    return {str(state): count for state, count in rows.items() if count} if isinstance(rows, dict) else {}
