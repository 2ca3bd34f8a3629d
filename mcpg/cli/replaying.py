"""
`mcpg-ctl operation replay`: a history folded through the definition it was made by, here and not on the server.

What is read is an export: of the server, of a file, or of stdin. Nothing of a control plane is needed for a file.
"""

from __future__ import annotations

import contextlib
import json
import sys
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mcpg.cli import definitions, history, render, resolve
from mcpg.cli.inputs import connect
from mcpg.cli.operate import FLEET
from mcpg.cli.parse import Line
from mcpg.errors import BadSpec, Usage

if TYPE_CHECKING:
    from mcpg.cli.resolve import Values
    from mcpg.machines.chain import Entry
    from mcpg.machines.replay import Fold, Rules

FORMAT = "mcpg-operation/2"
_MOST = 256 * 1024 * 1024  # bytes of an export: some 400,000 lines
_OK, _FAILED = 0, 1
_PAGE = 160  # columns of a sentence that is not shown on a terminal


def replay(line: Line) -> int:
    """Prints what happened line by line and whether each follows from the last; exit 1 when one does not."""
    values = resolve.values(line)
    document = _document(values)
    operation = document["operation"]
    found, fold = judged(
        document, under=definitions.definition(values.definition) if values.definition else None, until=values.until
    )
    width = render.terminal_width()
    render.emit(
        values.output, found, table=lambda: _page(operation, found, fold, width), names=[str(operation.get("id", ""))]
    )
    return _OK if found["ok"] else _FAILED


# ---- what is read


def _document(values: Values) -> dict[str, Any]:
    """The export that *values* name. Raises Usage, NotFound or BadSpec for what is none."""
    ref = values.id
    if ref == "-":
        said = sys.stdin.buffer.read(_MOST + 1)
        where = "stdin"
    elif definitions.is_file(ref):
        said, where = definitions.content(ref, _MOST, _FILE), ref
    else:
        with contextlib.closing(connect(values)) as api:
            said, where = api.raw(*FLEET, ref, "export"), api.url
    if len(said) > _MOST:
        raise Usage(f"{where} is too large", cause=f"an export is at most {_MOST // 1024 // 1024} MiB")
    try:
        found = json.loads(said)
    except (ValueError, RecursionError) as exc:
        raise BadSpec(f"{where} is not an export", cause=f"it is not JSON: {exc}", hint=_HOW) from None
    return _checked(found, where)


_HOW = "mcpg-ctl operation export ID --file FILE"
_FILE = "an operation's id, or a file of: " + _HOW


def _checked(found: Any, where: str) -> dict[str, Any]:
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        said = found.get("format") if isinstance(found, dict) else None
        cause = f"its format is {render.clean(said)[:40]}, this version reads {FORMAT}" if said else "it has no format"
        raise BadSpec(f"{where} is not an export", cause=cause, hint=_HOW)
    operation, row = found.get("operation"), found.get("row")
    if not (isinstance(operation, dict) and isinstance(row, dict) and isinstance(found.get("definitions"), dict)):
        raise BadSpec(f"{where} is not an export", cause="operation, row or definitions are missing", hint=_HOW)
    lines = operation.get("history")
    if not (isinstance(lines, list) and lines and all(isinstance(each, dict) for each in lines)):
        raise BadSpec(f"{where} is not an export", cause="it has no lines", hint=_HOW)
    return found


# ---- what is made of it


def judged(
    document: dict[str, Any], *, under: Rules | None = None, until: int | None = None
) -> tuple[dict[str, Any], Fold]:
    """An export folded, as `Replay` of mcpg/wire/audit.py has it. With *until*, up to that line only."""
    from mcpg.machines.header import difference, uncovered
    from mcpg.machines.replay import Fold

    operation, row = document["operation"], document["row"]
    lines: list[dict[str, Any]] = operation["history"]
    if until is not None:
        if not 1 <= until <= len(lines):
            raise Usage(f"--until {until} is not one of its lines", cause=f"it has {len(lines)}", hint="--until N")
        lines = lines[:until]
    held = _definitions(document)
    fold = Fold(str(operation.get("id", "")), held, under)
    fold.feed(_entries(str(operation.get("machine", "")), lines))
    matches = None
    if until is None:
        matches = fold.finish(str(row.get("state")), row.get("version", 0), str(row.get("head_hash")))
    bad = fold.divergence.seq if fold.divergence else 0
    if not bad:  # every line holds: then what is said beside them can be held against them
        fold.divergence = difference(document, held, until)
    rules = fold.rules
    d = fold.divergence
    names = [held[digest].label for digest in fold.used if digest in held]
    return {
        "id": fold.subject,
        "kind": str(operation.get("kind", "")),
        "name": str(operation.get("name", "")),
        "machine": str(operation.get("machine", "")),
        "ok": d is None,
        "state": fold.state,
        "until": fold.seq,
        "row": matches,
        "definitions": list(dict.fromkeys(names)),
        "judged_by": under.label if under else "",
        "transitions": fold.seq,
        "retries": fold.retries,
        "guards_checked": fold.checked,
        "guards_unchecked": fold.unchecked,
        "total_ms": (fold.at - fold.first_at) / 1000 if fold.seq else 0.0,
        "in_state_ms": {state: spent / 1000 for state, spent in fold.times.items()},
        "can_move": rules.events_from(fold.state) if rules else [],
        "divergence": None
        if d is None
        else {"seq": d.seq, "check": d.check, "expected": d.expected, "found": d.found, "why": d.why},
        "not_covered": uncovered(document, until),
        "lines": [_told(each, bad) for each in (lines if not bad else lines[:bad])],
    }, fold


def _entries(machine: str, lines: list[dict[str, Any]]) -> Iterator[Entry]:
    """The lines as the fold takes them; one that lacks something is named."""
    from mcpg.machines.chain import entry

    for number, each in enumerate(lines, 1):
        try:
            yield entry(machine, each)
        except (KeyError, TypeError) as exc:
            lacks = f"it has no {exc}" if isinstance(exc, KeyError) else str(exc)
            raise BadSpec(f"line {number} cannot be replayed", cause=lacks, hint=_HOW) from None


def _definitions(document: dict[str, Any]) -> dict[str, Rules]:
    """Each definition under the hash it is filed by, when that is its hash."""
    from mcpg.machines.replay import rules_of

    found = {}
    for digest, body in document["definitions"].items():
        ready = rules_of(body)
        if ready.digest != digest:
            raise BadSpec(
                f"the definition {digest[:12]} in this export was changed", cause=f"its hash is {ready.digest[:12]}",
                hint=_HOW,
            )  # fmt: skip
        found[digest] = ready
    return found


def _told(line: dict[str, Any], bad: int) -> dict[str, Any]:
    kept = ("seq", "offset_ms", "source", "dest", "event", "actor", "reason", "in_state_ms")
    return {key: line.get(key) for key in kept} | {"ok": line.get("seq") != bad}


# ---- how it looks


def _page(operation: dict[str, Any], found: dict[str, Any], fold: Fold, width: int | None) -> Iterator[str]:
    place = history.where(operation, fleet=True)
    yield "  ".join(filter(None, (*(render.clean(found[key]) for key in ("id", "kind", "name")), render.clean(place))))
    shown = [each | {"message": None} for each in found["lines"]]
    yield from history.steps(shown, width)
    d = found["divergence"]
    if d is not None and d["check"] == "header":
        yield f"  ✗ every line follows, but {render.clean(d['why'])} ({d['check']})"
    elif d is not None:
        yield f"  ✗ line {d['seq']} does not follow ({d['check']}): {render.clean(d['why'])}"
    if d is not None:
        yield f"    expected  {render.clean(d['expected'])}"
        yield f"    found     {render.clean(d['found'])}"
    elif found["row"] is None:
        yield f"  ✓ up to line {found['until']} every line follows; it was {render.clean(found['state'])} then"
        can = ", ".join(map(render.clean, found["can_move"])) or "nothing, it is final"
        yield f"    can move  {can}"
    else:
        yield f"  ✓ every line follows from the one before it; it is {render.clean(found['state'])}, as its row says"
    many = found["guards_checked"]
    guards = f"{many} guard{'s' * (many != 1)} held against {'its' if many == 1 else 'their'} facts"
    if found["guards_unchecked"]:
        guards += f", {found['guards_unchecked']} not checked (not this version's)"
    made_by = f"definition {', '.join(map(render.clean, found['definitions'])) or '?'}"
    if found["judged_by"]:
        made_by += f", judged by {render.clean(found['judged_by'])}"
    yield f"  {made_by} · {history.counts(found['transitions'], found['retries'])} · {guards}"
    yield from history.spent(found["in_state_ms"])
    if d is not None and d["check"] != "header":
        return  # nothing was compared that comes after it
    yield from textwrap.wrap(
        f"  no line covers, so a change would go unnoticed: {', '.join(found['not_covered'])}",
        width or _PAGE,
        subsequent_indent="    ",
    )
