"""The life of one cluster: a place where gateways may run. Reachability is another axis and not a state here."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from mcpg.machines.table import Facts, Move, Owner, Table


class State(Enum):
    REGISTERED = "registered"
    DRAINING = "draining"
    DECOMMISSIONED = "decommissioned"


class Event(Enum):
    REGISTER = "register"
    DRAIN = "drain"
    UNDRAIN = "undrain"
    DECOMMISSION = "decommission"
    FORCE_DECOMMISSION = "force_decommission"


@dataclass(frozen=True, slots=True)
class Load(Facts):
    """Places that are taken."""

    gateways: int = 0


def no_gateways(load: Load) -> bool:
    return load.gateways == 0


S, E = State, Event

MACHINE = Table(
    name="cluster",
    title="The life of one cluster: a place where gateways may run",
    states=State,
    events=Event,
    birth=E.REGISTER,
    initial=S.REGISTERED,
    final=frozenset({S.DECOMMISSIONED}),
    facts=Load,
    about={
        S.REGISTERED: "the allocator places gateways here while there is room",
        S.DRAINING: "places nothing new",
        S.DECOMMISSIONED: "gone; kept for its history",
    },
    moves=(
        Move(S.REGISTERED, E.DRAIN, S.DRAINING),
        Move(S.REGISTERED, E.FORCE_DECOMMISSION, S.DECOMMISSIONED),
        Move(S.DRAINING, E.UNDRAIN, S.REGISTERED),
        Move(S.DRAINING, E.DECOMMISSION, S.DECOMMISSIONED, no_gateways),
        Move(S.DRAINING, E.FORCE_DECOMMISSION, S.DECOMMISSIONED),
    ),
    rests={
        S.REGISTERED: Owner("an operator: drain"),
        S.DRAINING: Owner("an operator: undrain or decommission"),
    },
)
