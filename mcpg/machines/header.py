"""
What an export says of an operation beside its lines, held against the lines: they are hashed, the rest is not.

`difference` finds the first field that is not what a line says; the fold has shown before that the lines hold. `uncovered`
names the fields that no line says anything of. Called by `mcpg-ctl operation replay`. What is derived here, the words of
`message` too, is part of the form `mcpg-operation/2`: what derives it otherwise is another form.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from mcpg.machines.chain import canonical
from mcpg.machines.replay import RETRY, Divergence, Rules

Json = Mapping[str, Any]
PAUSED = "paused"  # as every operation machine calls it

_ASKED = {  # fields of the export, and what they are called in the first line's data
    "operation.kind": "kind",
    "operation.name": "name",
    "operation.instance_uid": "instance_id",
    "operation.org": "org",
    "operation.workspace": "workspace",
    "operation.environment": "environment",
    "inputs.spec": "spec",
    "inputs.previous": "previous",
}
_NOW = ("state", "final_phase", "running", "error", "code", "attempt", "paused_in", "transitions", "definition")
_PLANNED = ("deadline_at", "next_attempt_at")  # of an operation that runs; null in one that is over


class Said(NamedTuple):
    """One field: what line *seq* says it is, and what the export says."""

    seq: int
    field: str
    expected: Any
    found: Any


def difference(document: Json, definitions: Mapping[str, Rules], until: int | None = None) -> Divergence | None:
    """
    The first field of an export that is not what its lines say, in the order of the lines; up to line *until* what came
    later is not looked at. *definitions* hold that of every line. Called with lines that fold.
    """
    for said in _said(document, definitions, until):
        try:
            is_same = canonical(said.expected) == canonical(said.found)
        except (TypeError, ValueError):
            is_same = False
        if not is_same:
            why = f"{said.field} is not what line {said.seq} says"
            return Divergence(said.seq, "header", _short(said.expected), _short(said.found), why)
    return None


def uncovered(document: Json, until: int | None = None) -> list[str]:
    """The fields of this export that no line covers, so that a change of them goes unnoticed."""
    operation, lines = document["operation"], document["operation"]["history"]
    first = _data(lines[0])
    found = [field for field, key in _ASKED.items() if key not in first]
    if _placed(lines[:until]) is None:
        found.append("operation.cluster")
    found += ["operation.region", "operation.duration_ms", "operation.finished_at"]
    if until is not None:
        found += [f"operation.{field}" for field in (*_NOW, *_PLANNED)] + ["row"]
    elif operation.get("running"):
        found += [f"operation.{field}" for field in _PLANNED]
    if _inputs(document).get("configs"):
        found.append("inputs.configs.raw_sha256")
    return found


def words(line: Json) -> str:
    """A line in words: its reason, or what was asked in the first one. *line* has source, reason and data."""
    data, reason = _data(line), line["reason"]
    if undone := data.get("undone"):
        return f"{reason}; {', '.join(undone)}"
    if reason:
        return str(reason)
    return f"{data['kind']} {data['name']}" if line["source"] == "" and "kind" in data and "name" in data else ""


def _said(document: Json, definitions: Mapping[str, Rules], until: int | None) -> Iterator[Said]:
    operation, lines = document["operation"], document["operation"]["history"]
    shown = lines[:until]
    yield from _asked(document, lines[0])
    for line, after in zip(shown, [*lines[1:], None], strict=False):
        yield from _line(line, lines[0], after, definitions[line["definition"]])
    placed = _placed(shown)
    if placed is not None:
        yield Said(placed["seq"], "operation.cluster", placed["data"]["cluster"], operation.get("cluster"))
    if until is None:
        now = _now(lines, definitions[lines[-1]["definition"]], str(operation.get("machine")))
        yield from (Said(lines[-1]["seq"], f"operation.{key}", now[key], operation.get(key)) for key in now)
        if not now["running"]:
            yield from (Said(lines[-1]["seq"], f"operation.{key}", None, operation.get(key)) for key in _PLANNED)
        has_end = operation.get("finished_at") is not None
        yield Said(lines[-1]["seq"], "operation.finished_at (whether it has one)", not now["running"], has_end)


def _asked(document: Json, first: Json) -> Iterator[Said]:
    """What the first line says was asked, of what, by whom and when."""
    asked, operation = _data(first), document["operation"]
    inputs = _inputs(document)
    parts = {"operation": operation, "inputs": inputs}
    for field, key in _ASKED.items():
        if key in asked:
            part, _, name = field.partition(".")
            yield Said(1, field, asked[key], parts[part].get(name))
    if isinstance(asked.get("spec"), dict):
        yield Said(1, "operation.replicas", asked["spec"].get("replicas", 0), operation.get("replicas"))
    yield Said(1, "operation.damaged", [], operation.get("damaged", []))  # what is damaged is not exported
    yield Said(1, "operation.retry_of", asked.get("retry_of", ""), operation.get("retry_of"))
    yield Said(1, "operation.actor", first["actor"], operation.get("actor"))
    yield Said(1, "operation.started_at", _when(first["at_us"]), operation.get("started_at"))
    specs = [spec for spec in (inputs.get("spec"), inputs.get("previous")) if isinstance(spec, dict)]
    hashes = {spec["config_version"]: spec.get("config_hash") for spec in specs if spec.get("config_version")}
    configs = inputs.get("configs")
    found = [(c.get("version"), c.get("rendered_sha256")) for c in configs if isinstance(c, dict)] if configs else []
    yield Said(1, "inputs.configs", sorted(hashes.items(), key=str), sorted(found, key=str))


def _line(line: Json, first: Json, after: Json | None, rules: Rules) -> Iterator[Said]:
    """What is derived from a line and printed beside it."""
    derived = {
        "at": _when(line["at_us"]),
        "offset_ms": (line["at_us"] - first["at_us"]) / 1000,
        "phase": rules.body["phases"].get(line["dest"], line["dest"]),
        "message": words(line),
        "attempt": int(_data(line).get("attempt", 0)),
        "in_state_ms": None if after is None else (after["at_us"] - line["at_us"]) / 1000,
    }
    for key, expected in derived.items():
        found = line.get(key)
        if isinstance(expected, float) and type(found) is int:
            found = float(found)  # 4 is 4.0: who writes JSON anew may leave the point out
        yield Said(line["seq"], f"{key} of line {line['seq']}", expected, found)


def _now(lines: list[Json], rules: Rules, machine: str) -> dict[str, Any]:
    """What the lines say that the operation is now."""
    error = code = paused_in = ""
    for line in lines:
        source, dest, data = line["source"], line["dest"], _data(line)
        is_failure = dest in rules.body["failures"]
        if is_failure or (dest == PAUSED and source != PAUSED):
            code = data.get("code", "failed")
            error = data.get("error") or line["reason"] or code
        elif (source == PAUSED and line["event"] == "resume") or dest in rules.final:
            error = code = ""
        paused_in = source if dest == PAUSED and source != PAUSED else paused_in if dest == PAUSED else ""
    last = lines[-1]
    return {
        "state": last["dest"],
        "final_phase": rules.body["phases"].get(last["dest"], last["dest"]),
        "running": last["dest"] not in rules.final,
        "error": error,
        "code": code,
        "attempt": int(_data(last).get("attempt", 0)) if last["event"] == RETRY else 0,
        "paused_in": paused_in,
        "transitions": len(lines),
        "definition": f"{machine}@{last['definition'][:12]}",
    }


def _placed(lines: list[Json]) -> Json | None:
    """The last line that names the cluster it was given room in; None when none does."""
    return next((line for line in reversed(lines) if isinstance(_data(line).get("cluster"), str)), None)


def _data(line: Json) -> dict[str, Any]:
    return line["data"] if isinstance(line["data"], dict) else {}


def _inputs(document: Json) -> dict[str, Any]:
    inputs = document.get("inputs")
    return inputs if isinstance(inputs, dict) else {}


def _when(us: int) -> str:
    """As the wire has it; "" for a number that is no time."""
    try:
        at = datetime.fromtimestamp(us / 1_000_000, UTC)
    except (ValueError, OverflowError, OSError):
        return ""
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _short(value: Any) -> str:
    if isinstance(value, str):
        return value[:200] or "(nothing)"
    try:
        return canonical(value)[:200]
    except (TypeError, ValueError):
        return "(something else)"
