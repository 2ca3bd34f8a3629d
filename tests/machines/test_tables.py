"""The shape of every declared machine, and its page: what a reviewer reads when a move changes."""

from __future__ import annotations

import dataclasses
import json
from collections import deque
from enum import Enum

import pytest
from syrupy.assertion import SnapshotAssertion

from mcpg.engine.compensation import FORESEEN, RUN
from mcpg.engine.driver import WORK
from mcpg.errors import MAPPING, GuardRefused, McpgError, NoSuchMove
from mcpg.machines import TABLES, page, provision
from mcpg.machines.table import NO_FACTS, Facts, Move, Owner, Table, Wait, Work
from mcpg.store.journal import ROWS

EVERY = pytest.mark.parametrize("table", [pytest.param(t, id=n) for n, t in TABLES.items()])


@EVERY
def test_page(table: Table, page_of: SnapshotAssertion) -> None:
    """The table and the diagram are reviewed as text: a changed move is a changed snapshot."""
    assert page.markdown(table) == page_of


@pytest.fixture
def page_of(page: SnapshotAssertion) -> SnapshotAssertion:
    return page


@EVERY
def test_every_state_is_reachable(table: Table) -> None:
    seen: set[Enum] = set()
    todo = deque([table.initial])
    while todo:
        state = todo.popleft()
        if state not in seen:
            seen.add(state)
            todo += [m.dest for m in table.moves if m.source is state]
    assert set(table.states) == seen


@EVERY
def test_every_event_is_used(table: Table) -> None:
    assert {m.event for m in table.moves} | {table.birth} == set(table.events)


@EVERY
def test_no_move_leaves_a_final_state(table: Table) -> None:
    assert [m for m in table.moves if m.source in table.final] == []


@EVERY
def test_every_other_state_has_work_a_wait_or_an_owner(table: Table) -> None:
    """And a final one has none: nothing rests where nobody would move it on."""
    assert set(table.rests) == set(table.states) - table.final


@EVERY
def test_every_state_is_told_in_words(table: Table) -> None:
    assert list(table.about) == list(table.states)
    assert all(table.about.values())
    assert table.title


@EVERY
def test_words_are_no_part_of_the_definition(table: Table) -> None:
    told = dataclasses.replace(table, title="", about={})
    assert told.definition_hash == table.definition_hash


@EVERY
def test_a_failure_is_final(table: Table) -> None:
    assert table.failures <= table.final


@EVERY
def test_every_outcome_is_accepted_where_it_is_raised(table: Table) -> None:
    raised: list[tuple[Enum, Enum]] = []
    for state, rest in table.rests.items():
        if isinstance(rest, Work):
            raised += [(state, e) for e in (rest.done, rest.failed, rest.late, *rest.others)]
        elif isinstance(rest, Wait) and rest.late is not None:
            raised.append((state, rest.late))
    accepted = {(m.source, m.event) for m in table.moves}
    assert [(s.value, e.value) for s, e in raised if (s, e) not in accepted] == []


@EVERY
def test_a_deadline_always_has_an_event(table: Table) -> None:
    for rest in table.rests.values():
        if isinstance(rest, Wait):
            assert (rest.late is None) == (rest.timeout_s is None)


@EVERY
def test_only_the_last_row_of_an_event_in_a_state_is_unguarded(table: Table) -> None:
    """The first matching row wins, so an unguarded one hides every row after it."""
    rows: dict[tuple[Enum, Enum], list[Move]] = {}
    for move in table.moves:
        rows.setdefault((move.source, move.event), []).append(move)
    for moves in rows.values():
        assert all(m.guard is not None for m in moves[:-1])


@EVERY
def test_a_definition_is_canonical_json_with_a_stable_hash(table: Table) -> None:
    assert json.loads(table.canonical) == json.loads(json.dumps(table.definition()))
    again = dataclasses.replace(table)
    assert again.definition_hash == table.definition_hash


@EVERY
def test_any_changed_row_changes_the_hash(table: Table) -> None:
    hashes = {table.definition_hash}
    for i in range(len(table.moves)):
        without = dataclasses.replace(table, moves=[m for n, m in enumerate(table.moves) if n != i])
        hashes.add(without.definition_hash)
    assert len(hashes) == len(table.moves) + 1


@EVERY
def test_guards_name_facts_that_exist(table: Table) -> None:
    """A guard is a pure function of the machine's facts: it answers for their defaults."""
    for move in table.moves:
        if move.guard is not None:
            assert move.guard(table.facts()) in (True, False)


@EVERY
def test_every_machine_has_a_row_to_live_in(table: Table) -> None:
    assert table.name in ROWS


def test_every_effect_a_table_names_exists() -> None:
    named = {r.effect for t in TABLES.values() for r in t.rests.values() if isinstance(r, Work)}
    assert named == set(WORK)


def test_every_undo_a_table_names_exists() -> None:
    named = {r.undo for t in TABLES.values() for r in t.rests.values() if isinstance(r, Work) and r.undo}
    assert named == set(RUN) == set(FORESEEN)


def test_cancel_is_accepted_in_every_state_of_a_provision_that_is_not_final() -> None:
    table = provision.MACHINE
    accepting = {m.source for m in table.moves if m.event is provision.Event.CANCEL}
    assert accepting == set(table.states) - table.final


def test_an_unknown_event_names_the_moves_there_are() -> None:
    with pytest.raises(NoSuchMove) as refused:
        provision.MACHINE.step("ready", provision.Event.CANCEL, NO_FACTS)
    assert "final" in refused.value.cause


def test_a_state_of_a_newer_version_is_refused_not_crashed_on() -> None:
    with pytest.raises(NoSuchMove):
        provision.MACHINE.step("hibernating", provision.Event.CANCEL, NO_FACTS)


def test_a_refused_guard_shows_what_it_saw() -> None:
    seen = provision.Seen(replicas=2, enrolled=2, active=1, answering=1)
    with pytest.raises(GuardRefused) as refused:
        provision.MACHINE.step("confirming", provision.Event.CONFIRMED, seen)
    assert '"active": 1' in refused.value.cause


def test_an_operator_owns_every_paused_operation() -> None:
    for name in ("provision", "teardown"):
        table = TABLES[name]
        assert isinstance(table.rests[table.states("paused")], Owner)


def test_facts_are_json() -> None:
    for table in TABLES.values():
        facts: Facts = table.facts()
        assert json.loads(json.dumps(facts.as_json())) == facts.as_json()


def tree(cls: type, depth: int = 0) -> list[str]:
    """The class tree as indented names, in definition order."""
    lines = ["    " * depth + cls.__name__]
    for sub in cls.__subclasses__():
        if sub.__module__ == "mcpg.errors":
            lines += tree(sub, depth + 1)
    return lines


def test_the_error_docstring_shows_the_real_tree() -> None:
    import mcpg.errors

    drawn = [line[4:] for line in (mcpg.errors.__doc__ or "").splitlines() if line.startswith("    ")]
    assert tree(McpgError) == drawn


def test_every_error_code_is_unique_and_mapped() -> None:
    import mcpg.errors

    codes = [c.code for c in vars(mcpg.errors).values() if isinstance(c, type) and issubclass(c, McpgError)]
    assert sorted(codes) == sorted(MAPPING)
