"""Where a gateway goes: pure, deterministic, and able to say why not. Called by effects.reserve; it reserves nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Room:
    """One cluster as the allocator sees it; `used` counts reserved places."""

    id: str
    name: str
    region: str
    isolation_tier: str
    state: str
    gateways_max: int
    gateways_used: int


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked for. Empty region or tier: any. One replica takes one place, all in one cluster."""

    places: int
    region: str = ""
    isolation_tier: str = ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """No cluster fits: every one with its reason."""

    reasons: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        return " · ".join(f"{name}: {why}" for name, why in self.reasons) or "no cluster is registered"


def why_not(room: Room, wish: Wish) -> str:
    """The first reason why *room* cannot take *wish*; "" when it can."""
    if room.state != "registered":
        return room.state
    if wish.region and wish.region != room.region:
        return f"region {room.region} ≠ {wish.region}"
    if wish.isolation_tier and wish.isolation_tier != room.isolation_tier:
        return f"tier {room.isolation_tier} ≠ {wish.isolation_tier}"
    if room.gateways_used + wish.places > room.gateways_max:
        short = f" and {wish.places} are needed" if wish.places > 1 else ""
        return f"gateways {room.gateways_used}/{room.gateways_max}{short}"
    return ""


def place(rooms: Sequence[Room], wish: Wish) -> Room | Refusal:
    """The fitting cluster with the least room left after it (best fit), by name among equals."""
    reasons = [(r, why_not(r, wish)) for r in rooms]
    fits = [r for r, why in reasons if not why]
    if not fits:
        return Refusal(tuple((r.name, why) for r, why in sorted(reasons, key=lambda p: p[0].name)))
    return min(fits, key=lambda r: (r.gateways_max - r.gateways_used, r.name))
