"""The removal of one managed gateway: asked for is one state, seen gone another."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from mcpg.machines.table import Facts, Move, Owner, Table, Wait, Work


class State(Enum):
    REQUESTED = "requested"
    DRAINING = "draining"
    DELETING = "deleting"
    CONFIRMING = "confirming"
    DELETED = "deleted"
    PAUSED = "paused"
    CANCELLED = "cancelled"


class Event(Enum):
    REQUEST = "request"
    ACCEPT = "accept"
    RETRY = "retry"  # an attempt failed in a way that may pass; the row stays, and says when the next one is due
    DRAINED = "drained"
    REMOVED = "removed"
    GONE = "gone"
    FAIL = "fail"
    DEADLINE = "deadline"
    CANCEL = "cancel"
    RESUME = "resume"


@dataclass(frozen=True, slots=True)
class Seen(Facts):
    """
    What is still there: agent streams that are open. `superseded`: this delete ended an operation that was half done, so
    that there is no whole gateway to go back to, nor one to drain.
    """

    connected: int = 0
    superseded: bool = False


def nothing_connected(seen: Seen) -> bool:
    return seen.connected == 0


def half_done(seen: Seen) -> bool:
    return seen.superseded


S, E = State, Event

MACHINE = Table(
    name="teardown",
    title="The removal of one managed gateway: asked for is one state, seen gone another",
    states=State,
    events=Event,
    birth=E.REQUEST,
    initial=S.REQUESTED,
    final=frozenset({S.DELETED, S.CANCELLED}),
    failures=frozenset({S.CANCELLED}),
    facts=Seen,
    about={
        S.REQUESTED: "written down; accepted in the same transaction, so no row rests here",
        S.DRAINING: "its endpoints leave the list; the gateway is told (today's gateways ignore that)",
        S.DELETING: "the provisioner stops the replicas",
        S.CONFIRMING: "waiting until nothing of it is seen any more: process, stream",
        S.DELETED: "seen gone; its room is free",
        S.PAUSED: "it could not be stopped in its time; an operator decides",
        S.CANCELLED: "taken back before anything was stopped",
    },
    moves=(
        Move(S.REQUESTED, E.ACCEPT, S.DELETING, half_done),  # cancelled, it would leave what nobody finishes
        Move(S.REQUESTED, E.ACCEPT, S.DRAINING),
        Move(S.REQUESTED, E.CANCEL, S.CANCELLED),
        Move(S.DRAINING, E.RETRY, S.DRAINING),
        Move(S.DRAINING, E.DRAINED, S.DELETING),
        Move(S.DRAINING, E.FAIL, S.DELETING),  # a drain is a courtesy; a delete does not depend on it
        Move(S.DRAINING, E.DEADLINE, S.DELETING),
        Move(S.DRAINING, E.CANCEL, S.CANCELLED),
        Move(S.DELETING, E.RETRY, S.DELETING),
        Move(S.DELETING, E.REMOVED, S.CONFIRMING),
        Move(S.DELETING, E.FAIL, S.PAUSED),
        Move(S.DELETING, E.DEADLINE, S.PAUSED),
        Move(S.CONFIRMING, E.GONE, S.DELETED, nothing_connected),
        Move(S.CONFIRMING, E.DEADLINE, S.PAUSED),
        Move(S.PAUSED, E.RESUME, S.DELETING),
    ),
    rests={
        S.REQUESTED: Owner("the request that wrote it: accept follows in the same transaction"),
        S.DRAINING: Work("drain", E.DRAINED, E.FAIL, E.DEADLINE, timeout_s=10),
        S.DELETING: Work("remove", E.REMOVED, E.FAIL, E.DEADLINE, timeout_s=60),
        S.CONFIRMING: Wait("every agent stream closed", E.DEADLINE, timeout_s=60),
        S.PAUSED: Owner("an operator: operation resume, or a new delete"),
    },
    phases={S.REQUESTED: "draining", S.CONFIRMING: "deleting"},
)
