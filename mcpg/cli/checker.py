"""`mcpg-ctl machine check`: the model checker, on the machines that this installation ships. Needs no control plane."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mcpg.cli import render, resolve
from mcpg.cli.parse import Line
from mcpg.errors import NotFound

if TYPE_CHECKING:
    from mcpg.machines.check import Explored, Named, Table

Found = dict[str, Any]


def check(line: Line) -> int:
    """Prints every check, world and invariant, and the way to what does not hold. Exit 1 when something does not."""
    values = resolve.values(line)
    from mcpg.machines import TABLES

    found = examine(TABLES, values.name)
    width = render.terminal_width()
    render.emit(
        values.output,
        found,
        table=lambda: _page(found, width),
        names=[each["name"] for each in found["worlds"]],
    )
    return 0 if found["ok"] else 1


def examine(tables: Mapping[str, Table], name: str = "") -> Found:
    """Everything, or what concerns the machine or world *name*, as `MachineCheck`. Raises NotFound."""
    from mcpg.machines import check

    worlds = check.worlds(name)
    if not worlds:
        known = ", ".join((*tables, *(w.name for w in check.EVERY if w.name not in tables)))
        raise NotFound(f"no machine or world {name}", cause=f"there are: {known}", hint="mcpg-ctl machine check")
    mine = [name] if name in tables else [each for each in tables if any(each in w.machines for w in worlds)]
    explored: list[tuple[Named, Explored, float]] = []
    for world in worlds:
        began = time.perf_counter()
        explored.append((world, check.run(world, tables), (time.perf_counter() - began) * 1000))
    shapes = [shape for each in mine for shape in check.shapes(tables[each])]
    broken = [e.violation for _, e, _ in explored if e.violation is not None]
    moves = check.moves(tables[each] for each in mine)
    taken = {move for _, e, _ in explored for move in e.moves if move in moves}
    checks = [
        {
            "check": title,
            "holds": not any(s.wrong for s in shapes if s.check == title),
            "machines": mine,
            "wrong": [f"{s.machine}: {words}" for s in shapes if s.check == title for words in s.wrong],
        }
        for title in check.CHECKS
    ]
    return {
        "ok": not broken and all(each["holds"] for each in checks),
        "definitions": [tables[each].label for each in mine],
        "tables": checks,
        "worlds": [
            {
                "name": w.name, "about": w.about, "machines": sorted(w.machines), "states": e.states, "steps": e.steps,
                "ms": round(ms, 1), "holds": e.violation is None,
            }
            for w, e, ms in explored
        ],
        "invariants": list(_invariants(check.INVARIANTS, explored)),
        "moves": len(moves),
        "moves_taken": len(taken),
        "never_taken": [f"{m}: {s} – {e} → {d}" for m, s, e, d in sorted(moves - taken)],
        "counterexamples": [
            {
                "world": v.world, "invariant": v.invariant, "words": v.words,
                "timeline": [m._asdict() for m in v.timeline], "again": v.again,
            }
            for v in broken
        ],
    }  # fmt: skip


def _invariants(
    by_kind: Mapping[str, tuple[str, ...]], explored: list[tuple[Named, Explored, float]]
) -> Iterator[Found]:
    for invariant in dict.fromkeys(name for names in by_kind.values() for name in names):
        looked = [e for w, e, _ in explored if invariant in by_kind[w.kind]]
        if looked:
            holds = not any(e.violation is not None and e.violation.invariant == invariant for e in looked)
            states = sum(e.states for e in looked)
            yield {"invariant": invariant, "holds": holds, "worlds": len(looked), "states": states}


def _page(found: Found, width: int | None) -> Iterator[str]:
    machines = [label.partition("@")[0] for label in found["definitions"]]
    yield f"{', '.join(machines)}: {len(found['tables'])} checks of each table"
    rows = [(_mark(each["holds"]), each["check"], "; ".join(each["wrong"])) for each in found["tables"]]
    yield from (f"  {line}" for line in render.columns(rows, width=width and max(width - 2, 1)))
    yield ""
    worlds = [
        (
            _mark(each["holds"]),
            each["name"],
            str(each["states"]),
            str(each["steps"]),
            render.took(each["ms"]),
            each["about"],
        )
        for each in found["worlds"]
    ]
    yield from render.columns([("", "WORLD", "STATES", "STEPS", "TOOK", "ABOUT"), *worlds], width=width)
    yield ""
    held = [
        (_mark(each["holds"]), each["invariant"], str(each["worlds"]), str(each["states"]))
        for each in found["invariants"]
    ]
    yield from render.columns([("", "INVARIANT", "WORLDS", "STATES"), *held], width=width)
    yield ""
    yield f"{found['moves_taken']} of {found['moves']} moves were taken" + (
        f"; the checks of its table alone judge what no world comes to: {', '.join(found['never_taken'])}"
        if found["never_taken"]
        else ""
    )
    broken = [each["check"] for each in found["tables"] if not each["holds"]]
    broken += [each["invariant"] for each in found["invariants"] if not each["holds"]]
    yield f"✗ broken: {', '.join(broken)}" if broken else "✓ everything holds"
    for each in found["counterexamples"]:
        yield ""
        yield from timeline(each)


def _mark(holds: bool) -> str:
    return "holds" if holds else "BROKEN"


def timeline(found: Found) -> Iterable[str]:
    """A counterexample: each step, and under it the parts of the world that are otherwise than before."""
    yield f"BROKEN in world {found['world']}: {found['invariant']}"
    yield f"  {found['words']}"
    yield ""
    before: list[str] = []
    for n, moment in enumerate(found["timeline"]):
        again = "  <- from here on, over and over" if n == found["again"] else ""
        yield f"  {n:>3}  {' '.join((moment['who'], moment['what'])).strip()}{again}"
        for part in moment["parts"]:
            if part not in before:
                yield f"         {part}"
        before = moment["parts"]
