"""
Every state that can come of a model, breadth first, so that the first violation found is a shortest one; then what must
hold of the whole graph: nothing is stuck, and the engine alone never runs in a circle.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NamedTuple, Protocol

LIMIT = 400_000  # states of one world: more is a mistake in its set-up


class Kind(IntEnum):
    ENGINE = 0  # what will happen if nobody interferes: the engine's steps, time, a gateway that comes up
    PEOPLE = 1  # what an operator does where a state says that it is theirs to move on
    CHANCE = 2  # a fault, or a request: may happen or not


class Step(NamedTuple):
    """One step from a state. `move` is the row of a table that it took; `broken` names an invariant that it broke."""

    kind: Kind
    who: str
    what: str
    after: Any
    move: tuple[str, str, str, str] | None = None
    broken: tuple[str, str] | None = None


class Model(Protocol):
    name: str
    about: str

    def start(self) -> Hashable: ...
    def steps(self, state: Any) -> Iterable[Step]: ...
    def alike(self, state: Any) -> Hashable:
        """One state for all that differ only in which of two equals is called A; it steps to what they step to."""

    def wrong(self, state: Any) -> tuple[str, str] | None:
        """The invariant that *state* breaks, and how."""

    def is_over(self, state: Any) -> bool:
        """Nothing is open: what has to be reachable from everywhere."""

    def unowned(self, state: Any) -> str:
        """What is open in *state* and is nobody's to move on, should the engine have nothing to do; "" when all is."""

    def told(self, state: Any) -> list[str]:
        """Its parts in words, for a timeline."""


class Moment(NamedTuple):
    """One line of a timeline."""

    who: str
    what: str
    parts: list[str]


@dataclass(frozen=True)
class Violation:
    """An invariant that does not hold, how, and the shortest way there. `again` begins a circle, where there is one."""

    world: str
    invariant: str
    words: str
    timeline: tuple[Moment, ...] = ()
    again: int | None = None


@dataclass
class Explored:
    """What one world came to. `moves` are the rows of tables that were taken in it."""

    name: str
    about: str
    states: int = 0
    steps: int = 0
    moves: set[tuple[str, str, str, str]] = field(default_factory=set)
    violation: Violation | None = None


STUCK, LIVELOCK, UNOWNED = "nothing is stuck", "the engine alone comes to rest", "who rests has an owner"


def explore(model: Model) -> Explored:
    """All of *model*, or as much as it takes to find the first violation."""
    found = Explored(model.name, model.about)
    first = model.start()
    index: dict[Hashable, int] = {first: 0}
    states: list[Any] = [first]
    came = [-1]
    alone: list[list[int]] = []  # steps the engine takes alone, by state
    helped: list[list[int]] = []  # with those of operators, where it is theirs

    def path(at: int, *more: int) -> list[Moment]:
        """From the first state to number *at*, then along *more*, walked anew: who is called A stays A."""
        way = list(more)
        while at > 0:
            way.insert(0, at)
            at = came[at]
        state, moments = first, [Moment("", "at first", model.told(first))]
        for to in way:
            step = next(s for s in model.steps(state) if model.alike(s.after) == states[to])
            state = step.after
            moments.append(Moment(step.who, step.what, model.told(state)))
        return moments

    def broken(at: int, invariant: str, words: str, last: Step | None = None) -> Explored:
        found.states = len(states)
        moments = path(at)
        if last is not None:  # as it is called from the state at hand
            moments.append(Moment(last.who, last.what, model.told(last.after)))
        found.violation = Violation(model.name, invariant, words, tuple(moments))
        return found

    if wrong := model.wrong(first):
        return broken(0, *wrong)
    at = 0
    while at < len(states):
        mine: list[int] = []
        ours: list[int] = []
        for step in model.steps(states[at]):
            found.steps += 1
            if step.move is not None:
                found.moves.add(step.move)
            if step.broken is not None:
                return broken(at, *step.broken, step)
            after = model.alike(step.after)
            to = index.get(after)
            if to is None:
                to = index[after] = len(states)
                states.append(after)
                came.append(at)
                if wrong := model.wrong(after):
                    return broken(to, *wrong)
                if to > LIMIT:
                    raise OverflowError(f"{model.name} has more than {LIMIT} states")
            if to != at and step.kind != Kind.CHANCE:
                ours.append(to)
                if step.kind == Kind.ENGINE:
                    mine.append(to)
        alone.append(mine)
        helped.append(ours)
        at += 1
    found.states = len(states)

    for n, mine in enumerate(alone):
        if not mine and (words := model.unowned(states[n])):
            return broken(n, UNOWNED, words)
    over = [n for n, state in enumerate(states) if model.is_over(state)]
    reached = _backwards(helped, over)
    for n in range(len(states)):
        if not reached[n]:
            return broken(n, STUCK, "from here nothing leads to an end, whatever the engine and operators do")
    if circle := _circle(alone):
        again = len(path(circle[0])) - 1
        words = f"{len(circle)} states follow each other for ever"
        moments = path(circle[0], *circle[1:], circle[0])
        found.violation = Violation(model.name, LIVELOCK, words, tuple(moments), again)
    return found


def _backwards(edges: list[list[int]], ends: list[int]) -> list[bool]:
    """Which states lead to one of *ends*."""
    into: list[list[int]] = [[] for _ in edges]
    for source, targets in enumerate(edges):
        for target in targets:
            into[target].append(source)
    reached = [False] * len(edges)
    todo = deque(ends)
    for end in ends:
        reached[end] = True
    while todo:
        for source in into[todo.popleft()]:
            if not reached[source]:
                reached[source] = True
                todo.append(source)
    return reached


def _circle(edges: list[list[int]]) -> list[int]:
    """States that follow each other in a circle; [] when there is none. What has no way on is peeled off, over and over."""
    left = [len(set(targets)) for targets in edges]
    into: list[set[int]] = [set() for _ in edges]
    for source, targets in enumerate(edges):
        for target in targets:
            into[target].add(source)
    todo = deque(n for n, count in enumerate(left) if count == 0)
    gone = 0
    while todo:
        gone += 1
        for source in into[todo.popleft()]:
            left[source] -= 1
            if left[source] == 0:
                todo.append(source)
    if gone == len(edges):
        return []
    at = next(n for n, count in enumerate(left) if count > 0)
    seen: dict[int, int] = {}
    walk: list[int] = []
    while at not in seen:
        seen[at] = len(walk)
        walk.append(at)
        at = next(target for target in edges[at] if left[target] > 0)
    return walk[seen[at] :]
