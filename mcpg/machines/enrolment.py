"""
The life of one agent: a gateway process as the control plane knows it.

Reachability is shown with its age and has an automatic way back. An instance's state is derived from its agents'.
"""

from __future__ import annotations

from enum import Enum

from mcpg.machines.table import Move, Owner, Table, Wait


class State(Enum):
    ENROLLING = "enrolling"
    ONLINE = "online"
    STALE = "stale"
    DEPARTED = "departed"
    QUARANTINED = "quarantined"


class Event(Enum):
    REGISTER = "register"
    CHANNEL_OPENED = "channel_opened"
    HEARTBEAT = "heartbeat"
    MISSED = "missed"
    EXPIRED = "expired"
    EXITED = "exited"  # its process was seen to end
    DEREGISTERED = "deregistered"
    REMOVED = "removed"  # its instance was torn down
    QUARANTINE = "quarantine"
    REVIVE = "revive"


STALE_AFTER_S = 90.0  # contract/agent.md, section 11
DEPARTED_AFTER_S = 300.0  # counted from the last thing heard, so 210 s after becoming stale
ENROL_WITHIN_S = 600.0

S, E = State, Event

MACHINE = Table(
    name="enrolment",
    title="The life of one agent: a gateway process as the control plane knows it",
    states=State,
    events=Event,
    birth=E.REGISTER,
    initial=S.ENROLLING,
    final=frozenset(),
    about={
        S.ENROLLING: "credentials issued or expected; never seen on a channel",
        S.ONLINE: "a channel is open, or the last heartbeat is younger than 90 s",
        S.STALE: "90 to 300 s since anything was heard",
        S.DEPARTED: "over 300 s, deregistered, seen ended, or removed; the reason is in the line",
        S.QUARANTINED: "an operator said so: credentials refused, stream cut, config withheld",
    },
    moves=(
        Move(S.ENROLLING, E.CHANNEL_OPENED, S.ONLINE),
        Move(S.ENROLLING, E.HEARTBEAT, S.ONLINE),
        Move(S.ENROLLING, E.EXPIRED, S.DEPARTED),
        Move(S.ONLINE, E.MISSED, S.STALE),
        Move(S.STALE, E.HEARTBEAT, S.ONLINE),
        Move(S.STALE, E.CHANNEL_OPENED, S.ONLINE),
        Move(S.STALE, E.MISSED, S.DEPARTED),
        Move(S.DEPARTED, E.CHANNEL_OPENED, S.ONLINE),  # the same identity comes back
        Move(S.DEPARTED, E.HEARTBEAT, S.ONLINE),
        *(
            Move(source, event, S.DEPARTED)
            for source in (S.ENROLLING, S.ONLINE, S.STALE)
            for event in (E.EXITED, E.DEREGISTERED, E.REMOVED)
        ),
        Move(S.QUARANTINED, E.EXITED, S.QUARANTINED),  # noted; it must not come back by ending first
        Move(S.QUARANTINED, E.REMOVED, S.DEPARTED),
        *(Move(source, E.QUARANTINE, S.QUARANTINED) for source in (S.ENROLLING, S.ONLINE, S.STALE, S.DEPARTED)),
        Move(S.QUARANTINED, E.REVIVE, S.STALE),
    ),
    rests={
        S.ENROLLING: Wait("a first channel", E.EXPIRED, timeout_s=ENROL_WITHIN_S),
        S.ONLINE: Wait("the next heartbeat", E.MISSED, timeout_s=STALE_AFTER_S),
        S.STALE: Wait("a heartbeat or channel", E.MISSED, timeout_s=DEPARTED_AFTER_S - STALE_AFTER_S),
        S.DEPARTED: Owner("the agent, by coming back"),
        S.QUARANTINED: Owner("an operator: revive"),
    },
)
