"""`mcpg-ctl audit verify`: the server holds its whole journal against its rows, a part at a time; this adds it up."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from mcpg.cli import render, resolve
from mcpg.cli.client import Api
from mcpg.cli.history import of
from mcpg.cli.inputs import connect
from mcpg.cli.parse import Line
from mcpg.errors import McpgError

_HEAD = ("KIND", "SUBJECT", "LINE", "CHECK", "WHAT", "EXPECTED", "FOUND")
_PARTS = 1_000_000  # of 10,000 lines: a server that never ends is not one of ours
_CLEAN, _FINDINGS = 0, 1


def verify(line: Line) -> int:
    """Exit 0 when nothing was found, 1 when something was."""
    values = resolve.values(line)
    with contextlib.closing(connect(values)) as api, _progress() as show:
        found = _added(api, values.limit, show)
    width = render.terminal_width()
    render.emit(
        values.output,
        found,
        table=lambda: _page(found, width),
        wide=lambda: _page(found, None),
        names=[str(each.get("subject", "")) for each in found["findings"]],
    )
    return _CLEAN if found["ok"] else _FINDINGS


class _Progress:
    """One line on a terminal that is written over; nothing anywhere else."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._width = 0

    def __call__(self, words: str) -> None:
        if self._is_terminal:
            sys.stderr.write(f"\r{words:<{self._width}}")
            sys.stderr.flush()
            self._width = len(words)


@contextlib.contextmanager
def _progress() -> Iterator[_Progress]:
    show = _Progress()
    try:
        yield show
    finally:
        show("")
        if show._is_terminal:
            sys.stderr.write("\r")


def _added(api: Api, most: int, show: _Progress) -> dict[str, Any]:
    total: dict[str, Any] = {"ok": True, "lines": 0, "subjects": 0, "found": 0, "findings": []}
    after = ""
    for _ in range(_PARTS):
        asked = {"limit": str(most)} | ({"after": after} if after else {})
        part = api.item("v1", "audit", "verify", **asked)
        for key in ("lines", "subjects", "found"):
            total[key] += int(part[key])
        total["findings"] = [*total["findings"], *part["findings"]][:most]
        show(f"{total['lines']} of {part['journal']} lines, {total['found']} findings")
        before, after = after, str(part["next"])
        if not after:
            total["ok"] = total["found"] == 0
            return total
        if after == before:
            break
    raise McpgError("the control plane did not come to an end", cause=f"it stands at {render.clean(after)[:80]}")


def _page(found: dict[str, Any], width: int | None) -> Iterator[str]:
    shown = found["findings"]
    if shown:
        rows = [
            (*of(each, "kind", "subject"), str(each.get("seq") or ""), *of(each, "check", "what", "expected", "found"))
            for each in shown
        ]
        yield from render.columns([_HEAD, *rows], width=width)
    many = "history" if found["subjects"] == 1 else "histories"
    looked = f"{found['lines']} lines of {found['subjects']} {many}"
    if found["ok"]:
        yield f"✓ {looked}: every chain holds, every row is what its lines add up to"
    else:
        more = f", {found['found'] - len(shown)} more are not listed" if found["found"] > len(shown) else ""
        yield f"✗ {looked}: {found['found']} finding{'s' * (found['found'] != 1)}{more}"
