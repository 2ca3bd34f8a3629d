"""
The recovery of one managed gateway whose process ended by itself: brought back after a pause that grows, watched for a
while, and left alone once it is seen to end over and over.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from mcpg.machines.table import Facts, Move, Owner, Table, Wait, Work


class State(Enum):
    REQUESTED = "requested"
    WAITING = "waiting"
    RESTARTING = "restarting"
    CONFIRMING = "confirming"
    WATCHING = "watching"
    RECOVERED = "recovered"
    PAUSED = "paused"
    CANCELLED = "cancelled"
    SUPERSEDED = "superseded"


class Event(Enum):
    REQUEST = "request"
    ACCEPT = "accept"
    DUE = "due"
    RETRY = "retry"  # an attempt failed in a way that may pass; the row stays, and says when the next one is due
    APPLIED = "applied"
    OBSERVED = "observed"
    CONFIRMED = "confirmed"
    HELD = "held"
    ENDED = "ended"
    FAIL = "fail"
    DEADLINE = "deadline"
    RESUME = "resume"
    CANCEL = "cancel"
    SUPERSEDE = "supersede"  # somebody publishes or deletes the gateway: that takes over


BRAKE = 5  # ends without having stayed up in between, after which it is left alone
LONGEST_PAUSE_S = 60.0
SOAK_S = 60.0


@dataclass(frozen=True, slots=True)
class Seen(Facts):
    """
    `ends`: how often it ended or did not come up in this recovery. Counts of replicas as in a provision: wanted, enrolled,
    with the assigned config active, answering. `evidence`: the provisioner can observe at all.
    """

    ends: int = 0
    replicas: int = 0
    enrolled: int = 0
    active: int = 0
    answering: int = 0
    evidence: bool = True


def crash_loop(seen: Seen) -> bool:
    return seen.ends >= BRAKE


def all_replicas_serve(seen: Seen) -> bool:
    return not seen.evidence or seen.enrolled == seen.active == seen.answering == seen.replicas


S, E = State, Event
_DOWN_AGAIN = tuple(
    move
    for source, events in (
        (S.RESTARTING, (E.FAIL,)),
        (S.CONFIRMING, (E.ENDED, E.FAIL, E.DEADLINE)),
        (S.WATCHING, (E.ENDED,)),
    )
    for event in events
    for move in (Move(source, event, S.PAUSED, crash_loop), Move(source, event, S.WAITING))
)
_OPEN = (S.REQUESTED, S.WAITING, S.RESTARTING, S.CONFIRMING, S.WATCHING, S.PAUSED)

MACHINE = Table(
    name="recovery",
    title="The recovery of one managed gateway whose process ended by itself",
    states=State,
    events=Event,
    birth=E.REQUEST,
    initial=S.REQUESTED,
    final=frozenset({S.RECOVERED, S.CANCELLED, S.SUPERSEDED}),
    failures=frozenset({S.CANCELLED}),
    facts=Seen,
    about={
        S.REQUESTED: "written down; accepted in the same transaction, so no row rests here",
        S.WAITING: "a pause before the next start, longer after each end",
        S.RESTARTING: "the provisioner starts what is missing",
        S.CONFIRMING: "waiting for evidence: enrolled, config active, endpoint answers",
        S.WATCHING: "it serves; it has to stay up for a while before this counts as recovered",
        S.RECOVERED: "it stayed up",
        S.PAUSED: "it ends over and over, or cannot be started: left alone until an operator decides",
        S.CANCELLED: "left down, at someone's request: nothing is started until the gateway is published again",
        S.SUPERSEDED: "somebody published or deleted the gateway meanwhile: that operation sees to it",
    },
    moves=(
        Move(S.REQUESTED, E.ACCEPT, S.PAUSED, crash_loop),  # ends of a recovery a moment ago count: see supervision.py
        Move(S.REQUESTED, E.ACCEPT, S.WAITING),
        Move(S.WAITING, E.DUE, S.RESTARTING),
        Move(S.RESTARTING, E.RETRY, S.RESTARTING),
        Move(S.RESTARTING, E.APPLIED, S.CONFIRMING),
        Move(S.RESTARTING, E.DEADLINE, S.PAUSED),
        Move(S.CONFIRMING, E.OBSERVED, S.CONFIRMING),
        Move(S.CONFIRMING, E.CONFIRMED, S.WATCHING, all_replicas_serve),
        Move(S.WATCHING, E.HELD, S.RECOVERED),
        *_DOWN_AGAIN,
        Move(S.PAUSED, E.RESUME, S.RESTARTING),
        *(Move(source, E.CANCEL, S.CANCELLED) for source in _OPEN),
        *(Move(source, E.SUPERSEDE, S.SUPERSEDED) for source in _OPEN),
    ),
    rests={
        S.REQUESTED: Owner("the engine that wrote it: accept follows in the same transaction"),
        S.WAITING: Wait("its turn", E.DUE, timeout_s=LONGEST_PAUSE_S),
        S.RESTARTING: Work("restart", E.APPLIED, E.FAIL, E.DEADLINE, timeout_s=120),
        S.CONFIRMING: Wait("every replica enrolled, config active, endpoint answering", E.DEADLINE, timeout_s=60),
        S.WATCHING: Wait(f"{SOAK_S:g} s without an end", E.HELD, timeout_s=SOAK_S),
        S.PAUSED: Owner("an operator: operation resume, operation cancel, a publish or a delete of the gateway"),
    },
    phases={
        S.REQUESTED: "recovering",
        S.WAITING: "recovering",
        S.RESTARTING: "recovering",
        S.CONFIRMING: "recovering",
    },
)
