"""
`mcpg-ctl machine diff` and `machine upgrade`: two definitions side by side, and what another one would make of every
operation, live and recorded, before anything is upgraded.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mcpg.cli import definitions, render, resolve
from mcpg.cli.client import Api, RemoteError
from mcpg.cli.history import of
from mcpg.cli.inputs import connect
from mcpg.cli.parse import Line
from mcpg.errors import McpgError

if TYPE_CHECKING:
    from mcpg.machines.replay import Rules

_HEAD = ("WHAT", "HOW", "WHERE", "BEFORE", "AFTER", "LIVE")
_FINDINGS = ("OPERATION", "NAME", "LIVE", "STATE", "VERDICT", "LINE", "WHY")
_OK, _FAILED = 0, 1
_PARTS = 1_000_000
_LISTED = 100


def diff(line: Line) -> int:
    """Prints what differs, and how many rows rest where it would be noticed. Two files need no control plane."""
    values = resolve.values(line)
    from mcpg.machines.diff import compare

    is_file = [definitions.is_file(ref) for ref in (values.before, values.after)]
    with contextlib.ExitStack() as stack:
        api = None if all(is_file) else stack.enter_context(contextlib.closing(connect(values)))
        a, b = (_definition(api, ref) for ref in (values.before, values.after))
        live = None if api is None else _live(api, a.name)
    changes: list[dict[str, Any]] = [
        {
            "kind": c.kind, "how": c.how, "what": c.what, "before": c.before, "after": c.after, "states": list(c.states),
            "live": None if live is None else sum(live.get(state, 0) for state in c.states),
        }
        for c in compare(a, b)
    ]  # fmt: skip
    touched = {state for c in changes for state in c["states"]}
    found = {
        "machine": b.name,
        "before": a.label,
        "after": b.label,
        "is_same": a.digest == b.digest,
        "changes": changes,
        "live": None if live is None else sum(live.get(state, 0) for state in touched),
    }
    width = render.terminal_width()
    render.emit(
        values.output,
        found,
        table=lambda: _differences(found, width),
        wide=lambda: _differences(found, None),
        names=[c["what"] for c in changes],
    )
    return _OK


def _definition(api: Api | None, ref: str) -> Rules:
    """From a file, or from the control plane by a machine's name, `name@hash` or a hash."""
    if api is None or definitions.is_file(ref):
        return definitions.definition(ref)
    from mcpg.machines.replay import rules

    return rules(str(api.item("v1", "machines", "definitions", ref)["body"]))


def _live(api: Api, name: str) -> dict[str, int] | None:
    """How many rows rest in each state of a machine now; None for a machine that the control plane does not run."""
    try:
        found = api.item("v1", "machines", name)
    except RemoteError as exc:
        if exc.code != "not_found":
            raise
        return None
    final = set(found.get("final") or [])
    return {str(s["name"]): int(s.get("rows") or 0) for s in found.get("states") or [] if s["name"] not in final}


def _differences(found: dict[str, Any], width: int | None) -> Iterator[str]:
    yield f"{render.clean(found['before'])} → {render.clean(found['after'])}"
    if not found["changes"]:
        yield "no difference" + ("" if found["is_same"] else " that decides a move or a deadline")
        return
    rows = [
        (*of(each, "kind", "how", "what"), each["before"] or "–", each["after"] or "–", _number(each["live"]))
        for each in found["changes"]
    ]
    yield from render.columns([_HEAD, *rows], width=width)
    if found["live"] is not None:
        plural = "s" * (found["live"] != 1)
        yield f"{found['live']} row{plural} of {render.clean(found['machine'])} rest in a state that would notice"


def _number(count: int | None) -> str:
    return "" if count is None else str(count)


def upgrade(line: Line) -> int:
    """
    Judges every history by another definition: that of a file, else each that this programme ships. Exit 1 when a live
    operation would be stuck.
    """
    values = resolve.values(line)
    if values.check:
        judging = [_body(definitions.definition(values.check))]
    else:
        from mcpg.machines import TABLES

        judging = [table.definition() for table in TABLES.values()]
    with contextlib.closing(connect(values)) as api:
        found = [_judged(api, each) for each in judging]
    width = render.terminal_width()
    render.emit(
        values.output,
        found,
        table=lambda: _verdicts(found, width),
        wide=lambda: _verdicts(found, None),
        names=[str(each["subject"]) for report in found for each in report["findings"]],
    )
    return _FAILED if any(report["live_stuck"] for report in found) else _OK


def _body(rules: Rules) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(rules.body))
    return found


def _judged(api: Api, definition: dict[str, Any]) -> dict[str, Any]:
    """Every page of one machine's histories, added up."""
    total: dict[str, Any] = {}
    after = ""
    for _ in range(_PARTS):
        query = {"after": after} if after else {}
        part = api.send("POST", "v1", "machines", "upgrade-check", body={"definition": definition}, **query)
        if not total:
            total = part
        else:
            for key in ("subjects", "live", "replayable", "differs", "stuck", "live_stuck"):
                total[key] += int(part[key])
            total["findings"] = [*total["findings"], *part["findings"]]
        total["findings"] = sorted(total["findings"], key=lambda f: (not f["live"], f["verdict"] != "stuck"))[:_LISTED]
        before, after = after, str(part["next"])
        if not after:
            return total | {"next": ""}
        if after == before:
            break
    raise McpgError("the control plane did not come to an end", cause=f"it stands at {render.clean(after)[:80]}")


def _verdicts(found: list[dict[str, Any]], width: int | None) -> Iterator[str]:
    for report in found:
        is_bad = bool(report["live_stuck"])
        mark = "✗" if is_bad else "✓" if not report["differs"] and not report["stuck"] else "!"
        same = report["before"] == report["after"]
        names = report["after"] if same else f"{report['before']} → {report['after']}"
        many = "history" if report["subjects"] == 1 else "histories"
        words = f"{report['subjects']} {many}, {report['live']} live: {report['replayable']} replayable"
        words += f", {report['differs']} would have gone another way" if report["differs"] else ""
        words += f", {report['stuck']} stuck ({report['live_stuck']} live)" if report["stuck"] else ""
        yield f"{mark} {render.clean(names)}  {words}"
        rows = [
            (
                *of(each, "subject", "name"),
                "live" if each.get("live") else "over",
                *of(each, "state", "verdict"),
                str(each.get("seq") or ""),
                *of(each, "why"),
            )
            for each in report["findings"]
        ]
        if rows:
            yield from render.columns([_FINDINGS, *rows], width=width, indent=2, wrap=True)
