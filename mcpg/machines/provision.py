"""The life of one provision: from an accepted request to a gateway that answers, or back to nothing."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from mcpg.machines.table import Facts, Move, Owner, Table, Wait, Work


class State(Enum):
    REQUESTED = "requested"
    ALLOCATING = "allocating"
    APPLYING = "applying"
    CONFIRMING = "confirming"
    READY = "ready"
    PAUSED = "paused"
    COMPENSATING = "compensating"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Event(Enum):
    REQUEST = "request"
    ACCEPT = "accept"
    RETRY = "retry"  # an attempt failed in a way that may pass; the row stays, and says when the next one is due
    RESERVED = "reserved"
    NO_CAPACITY = "no_capacity"
    APPLIED = "applied"
    OBSERVED = "observed"
    NEXT = "next"  # of a rolling update: what was touched serves again, and the next replica may be touched
    CONFIRMED = "confirmed"
    REJECTED = "rejected"
    DEADLINE = "deadline"
    FAIL = "fail"
    CANCEL = "cancel"
    UNDONE = "undone"
    RESUME = "resume"
    SUPERSEDED = "superseded"


@dataclass(frozen=True, slots=True)
class Seen(Facts):
    """
    Counts of replicas: wanted, enrolled, with the wanted config acknowledged as active, and with an endpoint that
    answers. `rolled`: those that were told so far (an update tells one at a time); `before`: those that served when it
    began; `surplus`: those above the wanted number that are still there (a scale down stops them last). `cancelled`:
    somebody asked to stop. `paused_in`: the state it was paused in. `evidence`: the provisioner can observe at all (the
    no-op one cannot).
    """

    replicas: int = 0
    enrolled: int = 0
    active: int = 0
    answering: int = 0
    rolled: int = 0
    before: int = 0
    surplus: int = 0
    cancelled: bool = False
    paused_in: str = ""
    evidence: bool = True


def all_replicas_serve(seen: Seen) -> bool:
    served = not seen.evidence or seen.enrolled == seen.active == seen.answering == seen.replicas
    return served and seen.surplus == 0


def more_to_roll_and_all_that_served_serve(seen: Seen) -> bool:
    """Never fewer than N-1 serve: the next replica is touched when every one that served before serves again."""
    served = not seen.evidence or (seen.active >= seen.rolled and seen.answering >= min(seen.before, seen.replicas))
    return (seen.rolled < seen.replicas or seen.surplus > 0) and served


def paused_while_allocating(seen: Seen) -> bool:
    return seen.paused_in == State.ALLOCATING.value


def paused_while_applying(seen: Seen) -> bool:
    return seen.paused_in == State.APPLYING.value


def was_cancelled(seen: Seen) -> bool:
    return seen.cancelled


S, E = State, Event

MACHINE = Table(
    name="provision",
    title="The life of one provision: from an accepted request to a gateway that answers, or back to nothing",
    states=State,
    events=Event,
    birth=E.REQUEST,
    initial=S.REQUESTED,
    final=frozenset({S.READY, S.FAILED, S.CANCELLED}),
    failures=frozenset({S.FAILED, S.CANCELLED}),
    facts=Seen,
    about={
        S.REQUESTED: "written down; accepted in the same transaction, so no row rests here",
        S.ALLOCATING: "choosing a cluster and reserving room in it",
        S.APPLYING: "the provisioner creates the gateway's replicas, or an update tells the next of them",
        S.CONFIRMING: "waiting for evidence: enrolled, config active, endpoint answers",
        S.READY: "all of that was seen; the evidence is in the journal line",
        S.PAUSED: "what it was doing did not succeed in its time, however often it was tried; an operator decides",
        S.COMPENSATING: "taking back what was done, newest first",
        S.FAILED: "gave up: nothing of a create is left, an updated gateway is as it was before",
        S.CANCELLED: "as failed, at someone's request",
    },
    moves=(
        Move(S.REQUESTED, E.ACCEPT, S.ALLOCATING),
        Move(S.REQUESTED, E.CANCEL, S.CANCELLED),
        Move(S.ALLOCATING, E.RETRY, S.ALLOCATING),
        Move(S.ALLOCATING, E.RESERVED, S.APPLYING),
        Move(S.ALLOCATING, E.NO_CAPACITY, S.FAILED),
        Move(S.ALLOCATING, E.FAIL, S.COMPENSATING),
        Move(S.ALLOCATING, E.DEADLINE, S.PAUSED),
        Move(S.ALLOCATING, E.CANCEL, S.COMPENSATING),
        Move(S.APPLYING, E.RETRY, S.APPLYING),
        Move(S.APPLYING, E.APPLIED, S.CONFIRMING),
        Move(S.APPLYING, E.FAIL, S.COMPENSATING),
        Move(S.APPLYING, E.DEADLINE, S.PAUSED),
        Move(S.APPLYING, E.CANCEL, S.COMPENSATING),
        Move(S.CONFIRMING, E.OBSERVED, S.CONFIRMING),  # the evidence grew; the ladder shows it
        Move(S.CONFIRMING, E.NEXT, S.APPLYING, more_to_roll_and_all_that_served_serve),
        Move(S.CONFIRMING, E.CONFIRMED, S.READY, all_replicas_serve),
        Move(S.CONFIRMING, E.REJECTED, S.COMPENSATING),  # a replica refused its config, in its own words
        Move(S.CONFIRMING, E.FAIL, S.COMPENSATING),  # a replica ended
        Move(S.CONFIRMING, E.DEADLINE, S.COMPENSATING),
        Move(S.CONFIRMING, E.CANCEL, S.COMPENSATING),
        Move(S.COMPENSATING, E.RETRY, S.COMPENSATING),
        Move(S.COMPENSATING, E.UNDONE, S.CANCELLED, was_cancelled),
        Move(S.COMPENSATING, E.UNDONE, S.FAILED),
        Move(S.COMPENSATING, E.FAIL, S.PAUSED),
        Move(S.COMPENSATING, E.DEADLINE, S.PAUSED),
        Move(S.COMPENSATING, E.CANCEL, S.COMPENSATING),  # already on its way back: noted, and it ends cancelled
        Move(S.PAUSED, E.RESUME, S.ALLOCATING, paused_while_allocating),
        Move(S.PAUSED, E.RESUME, S.APPLYING, paused_while_applying),
        Move(S.PAUSED, E.RESUME, S.COMPENSATING),
        Move(S.PAUSED, E.CANCEL, S.COMPENSATING),
        Move(S.PAUSED, E.SUPERSEDED, S.FAILED),  # its gateway is being deleted, which takes back everything
    ),
    rests={
        S.REQUESTED: Owner("the request that wrote it: accept follows in the same transaction"),
        S.ALLOCATING: Work(
            "reserve", E.RESERVED, E.FAIL, E.DEADLINE, timeout_s=30, undo="release", others=(E.NO_CAPACITY,)
        ),
        S.APPLYING: Work("apply", E.APPLIED, E.FAIL, E.DEADLINE, timeout_s=30, undo="remove"),
        S.CONFIRMING: Wait("every replica enrolled, config active, endpoint answering", E.DEADLINE, timeout_s=60),
        S.COMPENSATING: Work("compensate", E.UNDONE, E.FAIL, E.DEADLINE, timeout_s=120),
        S.PAUSED: Owner("an operator: operation resume, operation cancel, or a delete of the gateway"),
    },
    phases={
        S.REQUESTED: "allocating",
        S.ALLOCATING: "allocating",
        S.APPLYING: "applying",
        S.CONFIRMING: "applying",
        S.COMPENSATING: "rolling_back",
    },
)
