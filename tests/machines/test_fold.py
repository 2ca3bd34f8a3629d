"""Histories folded through definitions: what a machine did replays, and whatever is changed afterwards is found and named."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcpg.errors import BadSpec, GuardRefused
from mcpg.machines import TABLES, provision
from mcpg.machines.chain import Entry, broken, canonical, entry_hash
from mcpg.machines.diff import compare, judge
from mcpg.machines.replay import Fold, Rules, replay, rules, rules_of
from mcpg.machines.table import Facts, Table

KNOWN = {t.definition_hash: rules(t.canonical) for t in TABLES.values()}
MACHINES = st.sampled_from(sorted(TABLES))
SUBJECT = "op-7f2e"


class Book:
    """A history as the journal would hold it: each line with its hash."""

    def __init__(self, table: Table, definition: str = "") -> None:
        self.table = table
        self.definition = definition or table.definition_hash
        self.lines: list[Entry] = []
        self.add(table.birth.value, table.initial.value)

    @property
    def state(self) -> str:
        return self.lines[-1].dest if self.lines else ""

    def add(self, event: str, dest: str, facts: Facts | None = None, data: Any = None, after_us: int = 1000) -> None:
        last = self.lines[-1] if self.lines else None
        e = Entry(
            self.table.name, len(self.lines) + 1, event, self.state, dest, "engine", "für 'x' \"y\"\n",
            canonical(facts.as_json() if facts else {}), canonical(data or {"n": 1.5}), self.definition,
            last.hash if last else "", "", last.at + after_us if last else 1_000_000,
        )  # fmt: skip
        self.lines.append(e._replace(hash=entry_hash(SUBJECT, e)))

    def fire(self, event: Any, facts: Facts | None = None, **more: Any) -> Book:
        dest = self.table.step(self.state, event, facts or self.table.facts())
        self.add(event.value, dest.value, facts, **more)
        return self


def facts_of(table: Table, rng: random.Random) -> Facts:
    """Any facts at all, small numbers so that guards hold now and then."""
    kinds: dict[str, Callable[[], Any]] = {
        "int": lambda: rng.randrange(3),
        "bool": lambda: rng.random() < 0.5,
        "str": lambda: rng.choice(["", "allocating", "applying", "compensating"]),
    }
    return table.facts(**{f.name: kinds[str(f.type)]() for f in dataclasses.fields(table.facts)})


def walk(name: str, seed: int, steps: int = 25) -> Book:
    """A random walk over a shipped table, by the table itself."""
    rng, book = random.Random(seed), Book(TABLES[name])
    for _ in range(steps):
        table = book.table
        events = [e for e in table.events if e.value in table.allowed(book.state)]
        if not events:
            break
        facts = facts_of(table, rng)
        event = rng.choice(events)
        try:
            dest = table.step(book.state, event, facts)
        except GuardRefused:
            continue
        book.add(event.value, dest.value, facts, after_us=rng.randrange(10))
    return book


def folded(lines: list[Entry], like: Book, known: dict[str, Rules] | None = None) -> Fold:
    """*lines*, against the row that *like* left behind."""
    fold = replay(SUBJECT, lines, KNOWN if known is None else known)
    fold.finish(like.state, len(like.lines), like.lines[-1].hash)
    return fold


@given(MACHINES, st.integers(0, 2**32))
@settings(deadline=None, max_examples=150)
def test_lesson_38_what_a_table_did_replays(name: str, seed: int) -> None:
    """Temporal's replays fail for reasons that are none; here events are compared, so whatever a table did replays."""
    book = walk(name, seed)
    fold = folded(book.lines, book)
    assert fold.divergence is None
    assert (fold.state, fold.seq, fold.unchecked) == (book.state, len(book.lines), 0)
    assert sum(fold.times.values()) == book.lines[-1].at - book.lines[0].at


def rewritten(lines: list[Entry], at: int, seed: int) -> list[Entry]:
    """One field of one line is another one; nothing else."""
    rng = random.Random(seed)
    line = lines[at]
    which = rng.choice(line._fields)
    now = getattr(line, which)
    other: Any
    if isinstance(now, int):
        other = now + rng.choice([-1, 1, 1000])
    elif which in ("facts", "data"):
        other = canonical(json.loads(now) | {"extra": 1})
    else:
        other = now + "x" if rng.random() < 0.5 or not now else now[:-1]
    return [*lines[:at], line._replace(**{which: other}), *lines[at + 1 :]]


@given(MACHINES, st.integers(0, 2**32), st.integers(0, 2**32))
@settings(deadline=None, max_examples=300)
def test_any_change_of_one_line_is_found(name: str, seed: int, how: int) -> None:
    book = walk(name, seed)
    at = how % len(book.lines)
    fold = folded(rewritten(book.lines, at, how), book)
    assert fold.divergence is not None
    assert fold.divergence.seq in (at + 1, at + 2)


@given(MACHINES, st.integers(0, 2**32), st.integers(0, 2**32))
@settings(deadline=None, max_examples=150)
def test_a_line_too_few_too_many_or_in_another_place_is_found(name: str, seed: int, how: int) -> None:
    book = walk(name, seed)
    at, lines = how % len(book.lines), book.lines
    gone = [*lines[:at], *lines[at + 1 :]]
    twice = [*lines[: at + 1], *lines[at:]]
    assert folded(gone, book).divergence is not None
    assert folded(twice, book).divergence is not None
    if at:
        first, second = lines[at - 1], lines[at]
        swapped = [*lines[: at - 1], second._replace(seq=first.seq), first._replace(seq=second.seq), *lines[at + 1 :]]
        assert folded(swapped, book).divergence is not None


@given(MACHINES, st.integers(0, 2**32), st.integers(0, 2**32))
@settings(deadline=None, max_examples=150)
def test_a_chain_that_was_made_anew_ends_in_another_head(name: str, seed: int, how: int) -> None:
    """Who rewrites a line and every hash after it has still to rewrite the row."""
    book = walk(name, seed)
    at = how % len(book.lines)
    lines = list(book.lines)
    lines[at] = lines[at]._replace(reason="it was somebody else")
    before = lines[at].prev_hash
    for n in range(at, len(lines)):
        line = lines[n]._replace(prev_hash=before)
        lines[n] = line._replace(hash=entry_hash(SUBJECT, line))
        before = lines[n].hash
    found = folded(lines, book).divergence
    assert found is not None
    assert (found.check, found.why) == ("row", "the row's head is not the hash of its last line")
    assert broken(SUBJECT, lines) == 0


E, Seen = provision.Event, provision.Seen
ALL = Seen(replicas=1, enrolled=1, active=1, answering=1)


def ready() -> Book:
    book = Book(provision.MACHINE).fire(E.ACCEPT).fire(E.RETRY, after_us=5).fire(E.RESERVED, after_us=2_000_000)
    return book.fire(E.APPLIED).fire(E.CONFIRMED, ALL)


def remade(lines: list[Entry], place: int, **other: Any) -> list[Entry]:
    """The line at *place* otherwise, and every hash from there on made to fit."""
    out = list(lines)
    out[place] = out[place]._replace(**other)
    before = out[place].prev_hash
    for n in range(place, len(out)):
        line = out[n]._replace(prev_hash=before)
        out[n] = line._replace(hash=entry_hash(SUBJECT, line))
        before = out[n].hash
    return out


CASES: dict[str, tuple[int, dict[str, Any], str, int]] = {
    "another destination": (2, {"dest": "applying"}, "dest", 3),
    "a move there is not": (3, {"event": "undone"}, "move", 4),
    "a guard that says no": (5, {"facts": canonical(dataclasses.replace(ALL, answering=0).as_json())}, "guard", 6),
    "back in time": (3, {"at": 5}, "time", 4),
    "another birth": (0, {"event": "accept"}, "birth", 1),
    "a definition nobody knows": (4, {"definition": "f" * 64}, "definition", 5),
    "another machine": (4, {"machine": "teardown"}, "machine", 5),
    "another source": (4, {"source": "paused"}, "source", 5),
    "a gap": (4, {"seq": 9}, "sequence", 5),
    "a number that is none": (4, {"at": "x"}, "value", 5),
}


@pytest.mark.parametrize("case", CASES)
def test_a_divergence_says_where_and_what(case: str) -> None:
    """Though every hash fits: the definition itself is what is held against the lines."""
    at, other, check, seq = CASES[case]
    found = replay(SUBJECT, remade(ready().lines, at, **other), KNOWN).divergence
    assert found is not None
    assert (found.check, found.seq) == (check, seq)
    assert found.expected
    assert found.found
    assert found.why


def test_a_row_of_a_batch_is_fed_as_it_comes() -> None:
    book, fold = ready(), Fold(SUBJECT, KNOWN)
    for line in book.lines:
        assert fold.feed([line])
    assert fold.finish("ready", 6, book.lines[-1].hash)
    assert (fold.retries, fold.checked, fold.times["allocating"]) == (1, 1, 2_000_005)
    assert not Fold(SUBJECT, KNOWN).finish("ready", 6, "")


def foreign(table: Table = provision.MACHINE, **other: Any) -> Rules:
    """A definition of another version."""
    return rules_of(table.definition() | other)


def test_lesson_5_a_definition_of_another_version_is_named() -> None:
    """DBOS leaves work alone for minutes when versions differ, and nobody says so: here the line says which it needs."""
    other = foreign(facts=[*provision.MACHINE.definition()["facts"], "moon"])
    book = Book(provision.MACHINE, other.digest).fire(E.ACCEPT)
    found = replay(SUBJECT, book.lines, KNOWN).divergence
    assert found is not None
    assert (found.check, found.found) == ("definition", other.digest[:12])
    assert replay(SUBJECT, book.lines, KNOWN | {other.digest: other}).divergence is None


def test_lesson_38_a_guard_that_is_not_ours_is_not_judged() -> None:
    """Code that changed makes no mismatch of a history that was right: whatever that guard may have said is accepted."""
    moves = [
        [s, e, "phase_of_the_moon" if guard == "all_replicas_serve" else guard, d]
        for s, e, guard, d in provision.MACHINE.definition()["moves"]
    ]
    other = foreign(moves=moves)
    lines = remade(ready().lines, 0)
    lines = [line._replace(definition=other.digest) for line in lines]
    lines = remade(lines, 5, facts="{}")
    lines = remade(lines, 0)
    fold = replay(SUBJECT, lines, {other.digest: other})
    assert (fold.divergence, fold.checked, fold.unchecked) == (None, 0, 1)


def test_lesson_38_facts_of_another_version_are_not_judged() -> None:
    other = foreign(facts=["replicas"])
    assert other.facts is None
    lines = remade([line._replace(definition=other.digest) for line in ready().lines], 0)
    fold = replay(SUBJECT, lines, {other.digest: other})
    assert (fold.divergence, fold.checked, fold.unchecked) == (None, 0, 1)


def test_lesson_37_a_long_history_is_folded_in_batches_and_can_always_be_ended() -> None:
    """Temporal kills what has 51,200 events and cannot end it; here length is no limit, of a fold or of an operation."""
    book, fold = Book(provision.MACHINE).fire(E.ACCEPT), Fold(SUBJECT, KNOWN)
    fold.feed(book.lines)
    for _ in range(60):
        start = len(book.lines)
        for _ in range(1000):
            book.add("retry", "allocating")
        assert fold.feed(book.lines[start:])
    book.fire(E.CANCEL).fire(E.UNDONE, Seen(cancelled=True))
    assert fold.feed(book.lines[-2:])
    assert fold.finish("cancelled", 60_004, book.lines[-1].hash)
    assert fold.retries == 60_000


BAD = {
    "no JSON": "{",
    "a list": "[]",
    "no name": json.dumps({k: v for k, v in provision.MACHINE.definition().items() if k != "name"}),
    "moves of three": json.dumps(provision.MACHINE.definition() | {"moves": [["requested", "accept", "allocating"]]}),
    "a state nobody declared": json.dumps(provision.MACHINE.definition() | {"initial": "nowhere"}),
    "a move to nowhere": json.dumps(provision.MACHINE.definition() | {"moves": [["requested", "accept", None, "x"]]}),
    "rests of numbers": json.dumps(provision.MACHINE.definition() | {"rests": {"paused": 1}}),
    "states of numbers": json.dumps(provision.MACHINE.definition() | {"states": [1]}),
    "deep": "[" * 100_000,
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_definition_is_refused_with_the_reason(case: str) -> None:
    with pytest.raises(BadSpec) as caught:
        rules(BAD[case])
    assert caught.value.cause


@pytest.mark.parametrize("name", TABLES)
def test_a_definition_differs_from_itself_in_nothing(name: str) -> None:
    mine = rules(TABLES[name].canonical)
    assert compare(mine, mine) == []
    assert mine.digest == TABLES[name].definition_hash


def changed(**other: Any) -> list[tuple[str, str, tuple[str, ...]]]:
    found = compare(rules(provision.MACHINE.canonical), foreign(**other))
    return [(c.kind, c.how, c.states) for c in found]


def test_what_differs_is_named_with_the_states_that_notice() -> None:
    d = provision.MACHINE.definition()
    moves = d["moves"]
    assert changed(moves=moves[1:]) == [("move", "removed", ("requested",))]
    assert changed(moves=[*moves, ["paused", "fail", None, "failed"]]) == [("move", "added", ("paused",))]
    unguarded = [[s, e, None if g == "all_replicas_serve" else g, t] for s, e, g, t in moves]
    assert changed(moves=unguarded) == [("guard", "changed", ("confirming",))]
    at = moves.index(["compensating", "undone", "was_cancelled", "cancelled"])
    turned = [*moves[:at], moves[at + 1], moves[at], *moves[at + 2 :]]
    assert changed(moves=turned) == [("order", "changed", ("compensating",))]
    shorter = d["rests"] | {"applying": d["rests"]["applying"] | {"timeout_s": 5}}
    assert changed(rests=shorter) == [("rest", "changed", ("applying",))]
    assert changed(states=[*d["states"], "waiting"]) == [("state", "added", ())]
    assert changed(failures=["failed"]) == [("final", "changed", ("cancelled",))]


def without(state: str) -> Rules:
    d = provision.MACHINE.definition()
    return foreign(
        states=[s for s in d["states"] if s != state],
        moves=[m for m in d["moves"] if state not in (m[0], m[3])],
        rests={s: r for s, r in d["rests"].items() if s != state},
        phases={s: p for s, p in d["phases"].items() if s != state},
    )


def test_an_upgrade_is_judged_history_by_history() -> None:
    book = ready()
    same = rules(provision.MACHINE.canonical)
    fold = replay(SUBJECT, book.lines, KNOWN, under=same)
    assert judge(fold, same, "ready").verdict == "replayable"
    new = without("confirming")
    fold = replay(SUBJECT, book.lines, KNOWN, under=new)
    verdict = judge(fold, new, "ready")
    assert (verdict.verdict, verdict.seq) == ("differs", 5)
    live = replay(SUBJECT, book.lines[:5], KNOWN, under=new)
    assert judge(live, new, "confirming").verdict == "stuck"
    dead_end = foreign(moves=[m for m in provision.MACHINE.definition()["moves"] if m[0] != "paused"])
    assert judge(live, dead_end, "paused").verdict == "stuck"


def test_an_order_of_a_person_to_try_again_is_no_retry() -> None:
    book = Book(TABLES["provision"])
    book.fire(provision.Event.ACCEPT).fire(provision.Event.RETRY)
    last = book.lines[-1]
    order = last._replace(seq=last.seq + 1, actor="local", prev_hash=last.hash)
    lines = [*book.lines, order._replace(hash=entry_hash(SUBJECT, order))]
    fold = replay(SUBJECT, lines, KNOWN)
    assert (fold.divergence, fold.seq, fold.retries) == (None, 4, 1)
