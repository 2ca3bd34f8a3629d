"""
What a world of the product is made of. Every part is a tuple of small values, so a whole world is one hashable value.

A replica is one letter: `-` no process, `a` or `b` a process with that spec that does not serve yet, `A` or `B` one that
serves. A version is not a number here: what matters of it is whether a driver still holds the newest one (`fresh`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

NOBODY = -1
UNBORN, LIVES, DELETED = 0, 1, 2


class Op(NamedTuple):
    """
    One operation's row, and what its journal says. `undo` is the undo plan, newest first, derived from the states that
    were entered; `step` is the turn of an update it is at, `before` counts those that served when it began, `ends` is
    recovery's, `over` a delete's that ended a half-done operation.
    """

    machine: str
    kind: str
    state: str
    inst: int
    owner: int = NOBODY  # the engine that holds the lease
    spec: str = ""
    prev: str = ""  # the spec before, of an update or adoption
    undo: tuple[str, ...] = ()
    step: int = 0
    before: int = 0
    ends: int = 0
    paused_in: str = ""
    cancelled: bool = False
    orphan: bool = False  # it gave an orphan room: undone, the gateway is one again
    over: bool = False


class Inst(NamedTuple):
    """One gateway: its row (`life` to `left`), and what is outside (`reps`, `channel`, `nack`)."""

    life: int = UNBORN
    op: int = NOBODY  # the one operation that runs on it
    held: int = 0  # places reserved
    spec: str = ""  # what it is assigned
    orphan: bool = False
    left: bool = False  # left down at somebody's request
    made: bool = False  # it was ready once
    reps: str = ""
    channel: bool = False  # an agent stream is open
    nack: bool = False  # a replica refused the config it is assigned
    deaf: bool = False  # what starts does not come up, what ends does not hang up, until somebody sees to it


class Task(NamedTuple):
    """A driver at work on one operation: in `state`, as it read it. `result`: the effect is done, its outcome unwritten."""

    op: int
    state: str
    fresh: bool = True
    result: str = ""


class World(NamedTuple):
    cluster: str
    used: int
    insts: tuple[Inst, ...]
    ops: tuple[Op, ...] = ()
    engines: tuple[tuple[Task, ...] | None, ...] = ()  # None: crashed


class Turn(NamedTuple):
    """rolling.Step: replicas *first* to *last* (from 0, without the last) are touched; after it *rolled* are as asked."""

    first: int
    last: int
    rolled: int
    stops: bool = False


@dataclass(frozen=True)
class Rules:
    """What the code around the tables guarantees. Each may be taken away, to see that something notices."""

    expect: bool = True  # an outcome is written only at the version it was decided on (journal.Appender._fire)
    fence: bool = True  # and only by the engine that holds the lease
    order: bool = (
        True  # an order to the provisioner is dropped when its operation has moved on, under the instance's lock
    )
    assigned: bool = True  # a compensation assigns the previous spec only while its operation runs on the instance
    room: bool = True  # the counter is compared in the transaction of the move (writes.reserve)
    registered: bool = True  # so is the cluster's state
    occupy: bool = True  # so is whether another operation runs on the instance (writes.occupy_instance)
    together: bool = True  # a delete ends the operation it supersedes in its own transaction


RULES = Rules()


@dataclass(frozen=True)
class Setup:
    """One small world to explore. `wishes` are requests that may come, `faults` what may go wrong, each at any moment."""

    name: str
    about: str
    insts: tuple[Inst, ...]
    wishes: frozenset[str]
    faults: frozenset[str]
    engines: int = 1
    slots: int = 2  # operations, in all
    capacity: int = 1
    ops: tuple[Op, ...] = ()  # what runs already
    ends: int = 1  # that a recovery counts when it begins: near the brake, the way to it is short
    sizes: Mapping[str, int] = field(default_factory=lambda: {"a": 1, "b": 1})  # replicas of each spec

    @property
    def start(self) -> World:
        used = sum(i.held for i in self.insts)
        return World("registered", used, self.insts, self.ops, ((),) * self.engines)


def running(reps: str) -> int:
    return len(reps) - reps.count("-")


def serving(reps: str) -> int:
    return sum(r.isupper() for r in reps)


def put(reps: str, at: int, value: str) -> str:
    """*reps* with one letter changed; nothing at the end that does not run."""
    longer = reps.ljust(at + 1, "-")
    return (longer[:at] + value + longer[at + 1 :]).rstrip("-")
