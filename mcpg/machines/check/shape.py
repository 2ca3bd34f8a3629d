"""
What must be true of one table alone, whatever the rest of the world does. Every check is a function of the table that
yields what is wrong with it, in words.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any

from mcpg.machines.check.driving import NOT_YET, RAISES
from mcpg.machines.table import Facts, Move, Owner, Table, Wait, Work

Check = Callable[[Table], Iterator[str]]
CHECKS: dict[str, Check] = {}

OPERATIONS = (
    "provision",
    "teardown",
    "recovery",
)  # what the engine drives: an attempt of theirs may fail and be made again
TAKES = {"reserve": "release", "apply": "remove"}  # effects that take something, and what gives it back (effects.UNDO)
ALWAYS = {  # requests that are never refused while anything is open
    "provision": ("cancel",),
    "recovery": ("cancel", "supersede"),
    "cluster": ("force_decommission",),
}


def _check(name: str) -> Callable[[Check], Check]:
    def keep(check: Check) -> Check:
        CHECKS[name] = check
        return check

    return keep


def _open(table: Table) -> list[Enum]:
    return [s for s in table.states if s not in table.final]


def _reached(table: Table, start: Enum, without: frozenset[Enum] = frozenset()) -> set[Enum]:
    """Every state that comes after *start*, *start* too; what is in *without* is not walked through."""
    seen: set[Enum] = set()
    todo = [start]
    while todo:
        state = todo.pop()
        if state not in seen:
            seen.add(state)
            todo += [m.dest for m in table.moves if m.source is state and state not in without]
    return seen


def _rows(table: Table) -> dict[tuple[Enum, Enum], list[Move]]:
    rows: dict[tuple[Enum, Enum], list[Move]] = {}
    for move in table.moves:
        rows.setdefault((move.source, move.event), []).append(move)
    return rows


def _raised(table: Table) -> Iterator[tuple[Enum, Enum]]:
    """Every outcome that the engine may raise in a state, as the table names them."""
    for state, rest in table.rests.items():
        if isinstance(rest, Work):
            yield from ((state, event) for event in (rest.done, rest.failed, rest.late, *rest.others))
            if table.name in OPERATIONS:
                yield state, table.events("retry")
        elif isinstance(rest, Wait) and rest.late is not None:
            yield state, rest.late


@_check("every state is reachable")
def _reachable(table: Table) -> Iterator[str]:
    yield from (f"nothing leads to {s.value}" for s in table.states if s not in _reached(table, table.initial))


@_check("no dead end")
def _no_dead_end(table: Table) -> Iterator[str]:
    """To a final state from everywhere; without final states, from everywhere to everything but the first."""
    for state in _open(table):
        after = _reached(table, state)
        if table.final and not after & table.final:
            yield f"from {state.value} no final state can be reached"
        if not table.final and (missing := [s.value for s in table.states if s not in after | {table.initial}]):
            yield f"from {state.value} there is no way to {', '.join(missing)}"


@_check("what an operator did can be taken back")
def _reversible(table: Table) -> Iterator[str]:
    """Of states that people alone move on: every one that is not final leads back to the first."""
    if all(isinstance(rest, Owner) for rest in table.rests.values()):
        for state in _open(table):
            if table.initial not in _reached(table, state):
                yield f"from {state.value} there is no way back to {table.initial.value}"


@_check("who rests has work, a deadline or an owner")
def _owned(table: Table) -> Iterator[str]:
    for state in table.states:
        rest = table.rests.get(state)
        if (rest is None) != (state in table.final):
            yield f"{state.value} is {'final, and something happens in it' if rest else 'nobody’s to move on'}"
        if isinstance(rest, Work | Wait) and (not rest.timeout_s or rest.timeout_s <= 0 or rest.late is None):
            yield f"{state.value} may last for ever"
        if isinstance(rest, Owner) and not rest.who:
            yield f"{state.value} has an owner without a name"
        if rest is not None and not any(m.source is state for m in table.moves):
            yield f"{state.value} has no way on"


@_check("time alone leads to an end or an owner")
def _time_alone(table: Table) -> Iterator[str]:
    """Lesson 1: if nothing else ever happens, deadlines lead out of every state, and never in a circle."""
    for start in table.states:
        seen: set[Enum] = set()
        todo = [start]
        while todo:
            state = todo.pop()
            rest = table.rests.get(state)
            if not isinstance(rest, Work | Wait) or rest.late is None:
                continue
            after = [m.dest for m in table.moves if m.source is state and m.event is rest.late]
            if start in after:
                yield f"{start.value} comes back to itself by deadlines alone"
            todo += [s for s in after if s not in seen]
            seen |= set(after)


@_check("nothing leaves a final state")
def _final_is_final(table: Table) -> Iterator[str]:
    yield from (f"{m.event.value} leaves {m.source.value}" for m in table.moves if m.source in table.final)
    yield from (f"{s.value} is a failure and not final" for s in table.failures - table.final)


@_check("every outcome is accepted")
def _accepted(table: Table) -> Iterator[str]:
    rows = _rows(table)
    yield from (f"{e.value} is not accepted in {s.value}" for s, e in _raised(table) if (s, e) not in rows)
    for state, rest in table.rests.items():
        if isinstance(rest, Work):
            named = {e.value for e in rest.others}
            missing = [name for name in RAISES.get(rest.effect, ()) if name not in named]
            yield from (f"{rest.effect} may raise {name}, which {state.value} does not name" for name in missing)
    for name in ALWAYS.get(table.name, ()):
        wanted = table.events(name)
        yield from (f"{name} is not accepted in {s.value}" for s in _open(table) if (s, wanted) not in rows)


@_check("what must be accepted is, whatever the facts")
def _total(table: Table) -> Iterator[str]:
    always = {e.value for _, e in _raised(table)} | {"resume", *ALWAYS.get(table.name, ())}
    for (state, event), moves in _rows(table).items():
        if event.value in always - NOT_YET and all(m.guard is not None for m in moves):
            for facts in _facts(table, moves):
                if not any(m.guard is None or m.guard(facts) for m in moves):
                    yield f"{event.value} in {state.value} is refused for {facts.as_json()}"
                    break


@_check("no move is hidden")
def _unhidden(table: Table) -> Iterator[str]:
    for (state, event), moves in _rows(table).items():
        if len(moves) == 1 and moves[0].guard is None:
            continue
        first = {
            next((n for n, m in enumerate(moves) if m.guard is None or m.guard(facts)), -1)
            for facts in _facts(table, moves)
        }
        for n, move in enumerate(moves):
            if n not in first:
                yield f"{event.value} never takes {state.value} to {move.dest.value}"


def _facts(table: Table, moves: list[Move]) -> Iterator[Facts]:
    """A small space of the facts that the guards of *moves* read; the others have their defaults."""
    read = {name for m in moves if m.guard is not None for name in m.guard.__code__.co_names}
    space: dict[str, tuple[Any, ...]] = {}
    for field in dataclasses.fields(table.facts):
        if field.name in read:
            states = tuple(s.value for s in table.states)
            space[field.name] = {"bool": (False, True), "str": ("", *states)}.get(str(field.type), (0, 1, 2, 99))
    for values in itertools.product(*space.values()):
        yield table.facts(**dict(zip(space, values, strict=True)))


@_check("cancel is legal until something is stopped")
def _cancel(table: Table) -> Iterator[str]:
    """Of a removal: before the state whose work stops replicas, and never from there on."""
    removing = frozenset(s for s, r in table.rests.items() if isinstance(r, Work) and r.effect == "remove")
    if not removing:
        return
    before = _reached(table, table.initial, removing) - removing - table.final
    accepting = {m.source for m in table.moves if m.event.value == "cancel"}
    for state in _open(table):
        if (state in before) != (state in accepting):
            yield f"cancel is {'not ' if state in before else ''}accepted in {state.value}"


@_check("what is taken names its undo")
def _undo(table: Table) -> Iterator[str]:
    for state, rest in table.rests.items():
        if isinstance(rest, Work) and rest.undo != TAKES.get(rest.effect):
            yield f"{rest.effect} in {state.value} is undone by {rest.undo or 'nothing'}, not {TAKES.get(rest.effect)}"


@_check("every event is used")
def _used(table: Table) -> Iterator[str]:
    used = {m.event for m in table.moves} | {table.birth}
    yield from (f"no move takes {e.value}" for e in table.events if e not in used)


@_check("every state is told in words")
def _told(table: Table) -> Iterator[str]:
    yield from (f"{s.value} has no words" for s in table.states if not table.about.get(s))
    yield from (f"{s} is no state" for s in {*table.about, *table.phases, *table.rests} if s not in table.states)
    if not table.title:
        yield "it has no title"


@dataclasses.dataclass(frozen=True)
class Shape:
    """One check of one table, and what is wrong; nothing when it holds."""

    check: str
    machine: str
    wrong: tuple[str, ...]


def shapes(table: Table) -> list[Shape]:
    return [Shape(name, table.name, tuple(check(table))) for name, check in CHECKS.items()]
