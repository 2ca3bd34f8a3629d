"""A table as a page a person reads: moves, who moves a row on, and the diagram. Snapshots and docs are made from it."""

from __future__ import annotations

from mcpg.machines.table import Owner, Table, Wait, Work


def mermaid(table: Table) -> str:
    """The state diagram, from the same rows the engine runs."""
    lines = ["stateDiagram-v2", f"    [*] --> {table.initial.value}: {table.birth.value}"]
    lines += [
        f"    {m.source.value} --> {m.dest.value}: {m.event.value}" + (f" [{m.guard.__name__}]" if m.guard else "")
        for m in table.moves
    ]
    lines += [f"    {s.value} --> [*]" for s in table.states if s in table.final]
    return "\n".join(lines)


def _until(rest: Work | Wait) -> str:
    if rest.timeout_s is None or rest.late is None:
        return "no limit"
    return f"{rest.timeout_s:g} s, then {rest.late.value}"


def markdown(table: Table) -> str:
    """One page: what happens while a row rests, every move, the diagram."""
    lines = [f"# {table.name}", "", f"definition `{table.label}`", ""]
    lines += ["| while in | phase | what happens | outcomes | undone by | until |", "|---|---|---|---|---|---|"]
    for state in table.states:
        name, phase = state.value, table.phase(state.value)
        match table.rests.get(state):
            case Work() as w:
                outcomes = ", ".join(e.value for e in (w.done, w.failed, *w.others))
                lines.append(f"| {name} | {phase} | engine: {w.effect} | {outcomes} | {w.undo or ''} | {_until(w)} |")
            case Wait() as w:
                lines.append(f"| {name} | {phase} | waits for {w.for_} | | | {_until(w)} |")
            case Owner(who):
                lines.append(f"| {name} | {phase} | moved on by {who} | | | |")
            case None:
                lines.append(f"| {name} | {phase} | final{', a failure' if state in table.failures else ''} | | | |")
    lines += ["", "| from | event | when | to |", "|---|---|---|---|"]
    lines += [
        f"| {m.source.value} | {m.event.value} | {m.guard.__name__ if m.guard else ''} | {m.dest.value} |"
        for m in table.moves
    ]
    return "\n".join([*lines, "", "```mermaid", mermaid(table), "```", ""])
