"""
A machine's definition in a file, and what else is said of it there.

`machine show -o json` says it twice: readable, and as the canonical JSON in `body`, which alone is a definition. So a file
that somebody edited may say two things; it is refused rather than half of it ignored.
"""

from __future__ import annotations

import contextlib
import json
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcpg.cli import files, render
from mcpg.cli.inputs import quoted
from mcpg.errors import BadSpec, NotFound, Usage

if TYPE_CHECKING:
    from mcpg.machines.replay import Rules

MOST = 1024 * 1024  # bytes of a definition; ours have some 4,000
_HOW = "mcpg-ctl machine show NAME -o json > FILE"
_SHOWN = 120  # characters of a part that disagrees


def is_file(ref: str) -> bool:
    """Whether *ref* means a file: it is one, or could be nothing else."""
    if "/" in ref or ref.endswith(".json"):
        return True
    with contextlib.suppress(OSError, ValueError):
        return Path(ref).exists()
    return False


def content(name: str, most: int, hint: str) -> bytes:
    """What the file holds, *hint* being what to name instead. Raises NotFound or Usage."""
    try:
        return files.read(Path(name).expanduser(), most, pipes=True)[0]
    except FileNotFoundError:
        raise NotFound(f"no file {name}", hint=hint) from None
    except (OSError, ValueError, RuntimeError) as exc:
        cause = getattr(exc, "strerror", None) or str(exc)
        raise Usage(f"{name} cannot be read", cause=cause, hint="another FILE") from None


def definition(name: str) -> Rules:
    """The definition in a file: alone, or as `machine show -o json` has it. Raises NotFound, Usage or BadSpec."""
    from mcpg.machines.replay import rules, rules_of

    said = content(name, MOST, _HOW)
    no_definition = f"{name} is not a machine definition"
    try:
        found = json.loads(said)
    except (ValueError, RecursionError) as exc:
        raise BadSpec(no_definition, cause=f"it is not JSON: {exc}", hint=_HOW) from None
    if isinstance(found, dict) and isinstance(held := found.get("definitions"), dict) and held:
        last = f"jq '.definitions[.operation.history[-1].definition]' {quoted(name)} > NEW.json"
        cause = f"it is an operation's export, which holds {len(held)}"
        raise BadSpec(no_definition, cause=cause, hint=f"{last}      name that")
    try:
        shows = isinstance(found, dict) and isinstance(found.get("body"), str)
        ready = rules(found["body"]) if shows else rules_of(found)
    except BadSpec as exc:
        raise BadSpec(no_definition, cause=exc.cause, hint=_HOW) from None
    if not shows:
        return ready
    if wrong := disagreement(found, ready):
        raise BadSpec(
            f"{name} says two things: {wrong}",
            cause="its body is the definition, and the rest only shows it",
            hint=f"jq '.body | fromjson' {quoted(name)} > NEW.json      edit that: a definition alone is taken too",
        )
    return ready


def disagreement(found: dict[str, Any], rules: Rules) -> str:
    """The first part of *found* that is not what its body, made ready as *rules*, says; "" when there is none."""
    for key, meant in _readable(rules).items():
        if key in found and (wrong := _differs(key, found[key], meant)):
            return wrong
    return ""


def _readable(rules: Rules) -> dict[str, Any]:
    """What `Machine` and `Definition` of mcpg/wire/machines.py say of a definition, words and counts aside."""
    body = rules.body
    phases, rests = body["phases"], body["rests"]
    return {
        "states": [{"name": s, "phase": phases.get(s, s), "rest": rests.get(s, {"kind": ""})} for s in body["states"]],
        "moves": [{"source": s, "event": e, "guard": g or "", "dest": d} for s, e, g, d in body["moves"]],
        "initial": body["initial"],
        "final": body["final"],
        "failures": body["failures"],
        "name": rules.name,
        "machine": rules.name,
        "hash": rules.digest,
        "definition": rules.label,
    }


def _differs(where: str, said: Any, meant: Any) -> str:
    """Where they part, as jq would name it, and how. What only *said* has, such as a count of rows, is let be but in a rest."""
    if said == meant:
        return ""
    if isinstance(said, list) and isinstance(meant, list):
        pairs = enumerate(zip_longest(said, meant))
        return next(filter(None, (_differs(f"{where}[{n}]", *pair) for n, pair in pairs)), "")
    if isinstance(said, dict) and isinstance(meant, dict):
        keys = {**meant, **said} if where.endswith(".rest") else meant
        return next(filter(None, (_differs(f"{where}.{k}", said.get(k), meant.get(k)) for k in keys)), "")
    return f"{where} is {_short(said)}, and its body says {_short(meant)}"


def _short(value: Any) -> str:
    text = "missing" if value is None else render.clean(json.dumps(value, ensure_ascii=False))
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
