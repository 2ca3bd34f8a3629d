"""The shipped machines hold in every world the checker explores, and what the checker says is what it saw."""

from __future__ import annotations

import pytest

from mcpg.machines import TABLES, check
from mcpg.machines.check.explore import Kind, Step, explore
from tools.checker_mutants import Fate, judge, mutants

FATES: dict[str, Fate] = {}


def fate(name: str) -> Fate:
    """What noticed the one mutant whose id holds *name*."""
    if name not in FATES:
        [mutant] = [m for m in mutants() if name in m.id]
        FATES[name] = judge(mutant)
    return FATES[name]


def broke(name: str) -> tuple[str, str]:
    found = fate(name).product
    assert found is not None, name
    return found.world, found.invariant


@pytest.mark.parametrize("table", TABLES)
def test_every_check_of_a_table_alone_holds(table: str) -> None:
    assert [s for s in check.shapes(TABLES[table]) if s.wrong] == []


@pytest.mark.parametrize("world", check.EVERY, ids=lambda w: w.name)
def test_every_invariant_holds_in_every_state_of(world: check.Named) -> None:
    found = check.run(world, TABLES)
    assert found.violation is None
    assert found.states > 1


def test_every_move_is_taken_but_those_of_states_in_which_no_row_rests() -> None:
    """A world that never takes a move proves nothing about it."""
    taken = set().union(*(check.run(w, TABLES).moves for w in check.EVERY))
    assert {source for _, source, _, _ in check.moves(TABLES.values()) - taken} == {"requested"}


def test_every_machine_is_in_a_world() -> None:
    assert {m for w in check.EVERY for m in w.machines} == set(TABLES)


# ---- lessons of the field, each shown by what happens without the move, guard or rule that answers it


def test_lesson_1_every_open_state_has_something_that_moves_it_on() -> None:
    """Work that stayed pending for ever blocked a queue elsewhere: a state without a deadline is found, by name."""
    for state in ("provision: deadline: applying", "recovery: deadline: watching", "enrolment: deadline: stale"):
        assert "who rests has work, a deadline or an owner" in fate(state).alone
        assert broke(state)[1] == "who rests has an owner"


def test_lesson_6_a_cancel_that_is_refused_in_one_state_is_found() -> None:
    """A cancel in the middle of provisioning left an instance busy for ever elsewhere."""
    assert broke("provision: move: applying – cancel")[1] == "cancel is legal everywhere"
    assert broke("provision: undo: remove of apply")[1] == "terminal only with evidence"


def test_lesson_7_room_is_taken_only_where_the_cluster_still_takes_gateways() -> None:
    """A new instance joined a fleet that was terminating elsewhere: the state is compared in the same transaction."""
    assert broke("protocol: rule: registered") == ("room", "no oversubscription")
    assert broke("cluster: guard: draining – decommission") == ("room", "no oversubscription")


def test_lesson_10_a_recovery_never_fights_an_operation_and_stops_at_its_brake() -> None:
    """Two controllers of one field oscillated elsewhere: one operation at a time, and the engine alone comes to rest."""
    assert broke("protocol: rule: occupy")[1] == "one operation at a time"
    assert broke("recovery: move: watching – ended [crash_loop] → paused")[1] == "recovery stops at its brake"


def test_lesson_17_the_next_replica_is_touched_only_when_those_before_serve() -> None:
    """A replacement came before the old one was gone elsewhere: order is a guard, and its absence is found."""
    assert broke("provision: guard: confirming – next") == ("update", "an update leaves N-1 serving")


@pytest.mark.parametrize("rule", ["expect", "fence", "order", "assigned", "room", "together"])
def test_a_rule_of_the_protocol_that_is_taken_away_is_missed(rule: str) -> None:
    assert fate(f"protocol: rule: {rule}").product is not None


# ---- the explorer itself


class Toy:
    """Counts up to three; `steps_of` says what else there is."""

    name = about = "toy"

    def __init__(self, **steps_of: list[tuple[Kind, int]]) -> None:
        self.more = {int(key[1:]): steps for key, steps in steps_of.items()}

    def start(self) -> int:
        return 0

    def alike(self, state: int) -> int:
        return state

    def steps(self, state: int) -> list[Step]:
        on = [(Kind.ENGINE, state + 1)] if state < 3 and state not in self.more else []
        return [Step(kind, "toy", f"to {to}", to) for kind, to in (*on, *self.more.get(state, []))]

    def wrong(self, state: int) -> tuple[str, str] | None:
        return ("small", f"{state} is too much") if state > 3 else None

    def is_over(self, state: int) -> bool:
        return state == 3

    def unowned(self, state: int) -> str:
        return "" if state in (2, 3) else f"{state} is nobody's"

    def told(self, state: int) -> list[str]:
        return [str(state)]


def way(found: check.Explored) -> tuple[str, list[str]]:
    assert found.violation is not None
    return found.violation.invariant, [m.parts[0] for m in found.violation.timeline]


def test_what_holds_has_no_counterexample() -> None:
    assert explore(Toy()).violation is None


def test_a_wrong_state_is_reached_by_a_shortest_way() -> None:
    toy = Toy(_1=[(Kind.ENGINE, 2), (Kind.CHANCE, 4)])
    assert way(explore(toy)) == ("small", ["0", "1", "4"])


def test_a_state_from_which_only_chance_leads_on_is_stuck() -> None:
    toy = Toy(_2=[(Kind.CHANCE, 3)])
    assert way(explore(toy)) == ("nothing is stuck", ["0"])


def test_a_state_that_people_own_is_not_stuck() -> None:
    assert explore(Toy(_2=[(Kind.PEOPLE, 3)])).violation is None


def test_a_state_that_nobody_owns_is_named() -> None:
    assert way(explore(Toy(_1=[(Kind.PEOPLE, 2)]))) == ("who rests has an owner", ["0", "1"])


def test_the_engine_in_a_circle_is_found_with_the_circle() -> None:
    found = explore(Toy(_2=[(Kind.ENGINE, 1), (Kind.ENGINE, 3)]))
    assert way(found)[0] == "the engine alone comes to rest"
    assert found.violation is not None
    assert found.violation.again is not None
    assert [m.parts[0] for m in found.violation.timeline[found.violation.again :]] in (["1", "2", "1"], ["2", "1", "2"])
