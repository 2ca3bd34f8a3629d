"""The declared machines as bodies of the wire."""

from __future__ import annotations

from typing import Any

from mcpg.machines import TABLES, page
from mcpg.machines.table import Table
from mcpg.store import reads
from mcpg.store.clock import to_datetime
from mcpg.store.database import Database
from mcpg.wire.machines import Definition, Machine, MachineMove, MachineState, MachineSummary


async def machines(db: Database) -> list[MachineSummary]:
    """Every machine, with how many rows rest in each state."""
    return [
        MachineSummary(
            name=t.name, definition=t.label, title=t.title, states=len(t.states), moves=len(t.moves),
            rows=await _rows(db, t),
        )
        for t in TABLES.values()
    ]  # fmt: skip


async def machine(db: Database, table: Table) -> Machine:
    """One machine whole, from the table that the engine runs."""
    rows, rests = await _rows(db, table), table.definition()["rests"]
    states = [
        MachineState(
            name=s.value, about=table.about[s], phase=table.phase(s.value), rest=rests.get(s.value, {"kind": ""}),
            rows=rows[s.value],
        )
        for s in table.states
    ]  # fmt: skip
    moves = [
        MachineMove(
            source=m.source.value, event=m.event.value, dest=m.dest.value, guard=m.guard.__name__ if m.guard else ""
        )
        for m in table.moves
    ]
    return Machine(
        name=table.name, definition=table.label, hash=table.definition_hash, title=table.title,
        initial=table.initial.value, final=sorted(table.final_values), failures=sorted(table.failure_values),
        states=states, moves=moves, mermaid=page.mermaid(table), body=table.canonical,
    )  # fmt: skip


def definition(row: dict[str, Any]) -> Definition:
    """A stored definition; *row* is the store's."""
    table = TABLES.get(row["machine"])
    return Definition(
        hash=row["hash"], definition=f"{row['machine']}@{row['hash'][:12]}", machine=row["machine"],
        is_current=table is not None and table.definition_hash == row["hash"],
        first_seen_at=to_datetime(row["first_seen_at"]), body=row["body"],
    )  # fmt: skip


async def _rows(db: Database, table: Table) -> dict[str, int]:
    """Of every state of the machine; a state of another version's rows counts with the name it has."""
    return {s.value: 0 for s in table.states} | await reads.count_by_state(db, table.name)
