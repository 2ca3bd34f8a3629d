"""
Every small mistake that could be made in a shipped table or in the protocol around it, one at a time, and what notices:
the proof that the checker can fail. Used by tests/machines/test_check_mutations.py and tools/checker_docs.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from mcpg.machines import TABLES, check
from mcpg.machines.check import RULES, Rules, Violation
from mcpg.machines.table import Move, Table, Wait, Work

FEW = 4  # worlds that are looked at when a check of the table alone has noticed already


@dataclass(frozen=True)
class Mutant:
    """One mistake: in which machine ("" for the protocol), in words, and the tables and rules that have it."""

    machine: str
    kind: str
    words: str
    tables: Mapping[str, Table]
    rules: Rules = RULES

    @property
    def id(self) -> str:
        return f"{self.machine or 'protocol'}: {self.kind}: {self.words}"


@dataclass(frozen=True)
class Fate:
    """What noticed: checks of the table alone, and the first violation of a world, if there was one."""

    mutant: Mutant
    alone: tuple[str, ...]
    product: Violation | None

    @property
    def is_caught(self) -> bool:
        return bool(self.alone) or self.product is not None


def mutants() -> Iterator[Mutant]:
    for table in TABLES.values():
        yield from _of_moves(table)
        yield from _of_rests(table)
    for rule in dataclasses.fields(Rules):
        yield Mutant("", "rule", rule.name, TABLES, Rules(**{rule.name: False}))


def _with(table: Table, **changes: Any) -> Mapping[str, Table]:
    return {**TABLES, table.name: dataclasses.replace(table, **changes)}


def _of_moves(table: Table) -> Iterator[Mutant]:
    for n, move in enumerate(table.moves):
        rest = [m for k, m in enumerate(table.moves) if k != n]
        yield Mutant(table.name, "move", _words(move), _with(table, moves=rest))
    for n, move in enumerate(table.moves):
        if move.guard is not None:
            free = [dataclasses.replace(m, guard=None) if k == n else m for k, m in enumerate(table.moves)]
            yield Mutant(table.name, "guard", _words(move), _with(table, moves=free))


def _words(move: Move) -> str:
    guard = f" [{move.guard.__name__}]" if move.guard else ""
    return f"{move.source.value} – {move.event.value}{guard} → {move.dest.value}"


def _of_rests(table: Table) -> Iterator[Mutant]:
    def put(state: Enum, rest: Work | Wait) -> Mapping[str, Table]:
        return _with(table, rests={**table.rests, state: rest})

    for state, rest in table.rests.items():
        if isinstance(rest, Work):
            late: Any = dataclasses.replace(rest, timeout_s=0)
            yield Mutant(table.name, "deadline", state.value, put(state, late))
            if rest.undo:
                yield Mutant(
                    table.name,
                    "undo",
                    f"{rest.undo} of {rest.effect}",
                    put(state, dataclasses.replace(rest, undo=None)),
                )
            for event in rest.others:
                others = tuple(e for e in rest.others if e is not event)
                yield Mutant(
                    table.name,
                    "outcome",
                    f"{event.value} of {rest.effect}",
                    put(state, dataclasses.replace(rest, others=others)),
                )
        elif isinstance(rest, Wait):
            yield Mutant(
                table.name, "deadline", state.value, put(state, dataclasses.replace(rest, timeout_s=None, late=None))
            )


def judge(mutant: Mutant) -> Fate:
    """Every check of the table alone; then the worlds that the machine is in, the small ones first, to the first violation."""
    alone = tuple(s.check for s in check.shapes(mutant.tables[mutant.machine]) if s.wrong) if mutant.machine else ()
    for world in check.worlds(mutant.machine)[: FEW if alone else None]:
        explored = check.run(world, mutant.tables, mutant.rules)
        if explored.violation is not None:
            return Fate(mutant, alone, explored.violation)
    return Fate(mutant, alone, None)
