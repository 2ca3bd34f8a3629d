"""
Where a gateway goes: pure, deterministic, and able to say why not. Called by rooms.py and effects.reserve; reserves nothing.

A gateway's replicas live in one cluster. Region (if one is asked for) and isolation tier must match exactly; among the
clusters that fit, the one whose scarcest resource is scarcest wins (best fit: what is nearly full is filled, what is
empty stays whole), by name among equals. `Pool` keeps clusters in that order, so that a choice looks at few of them.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

MIB = 2**20
REGISTERED = "registered"  # the one state of a cluster that takes gateways


class Need(NamedTuple):
    """What all replicas of one gateway take together: one place each, millicores, bytes."""

    places: int
    cpu_millicores: int = 0
    memory_bytes: int = 0

    def beyond(self, held: Need) -> Need:
        """What is missing from *held*, of each kind."""
        return Need(*(max(0, wanted - has) for wanted, has in zip(self, held, strict=True)))


NOTHING = Need(0)
UNREACHABLE = "unreachable "  # how such a refusal begins


class Room(NamedTuple):
    """One cluster as the allocator sees it. A total of None is no limit; `unreachable` is "", or since when and why."""

    id: str
    name: str
    region: str
    isolation_tier: str
    state: str
    gateways_max: int
    gateways_used: int
    cpu_millicores_total: int | None = None
    cpu_millicores_used: int = 0
    memory_bytes_total: int | None = None
    memory_bytes_used: int = 0
    unreachable: str = ""

    def holding(self, need: Need) -> Room:
        """The same with *need* taken."""
        return self._replace(
            gateways_used=self.gateways_used + need.places,
            cpu_millicores_used=self.cpu_millicores_used + need.cpu_millicores,
            memory_bytes_used=self.memory_bytes_used + need.memory_bytes,
        )


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked for. An empty region is any; `cluster` names the only one that will do."""

    need: Need
    region: str = ""
    isolation_tier: str = "shared"
    cluster: str = ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """No cluster fits: every one with its reason."""

    reasons: tuple[tuple[str, str], ...]

    @property
    def is_unreachable(self) -> bool:
        """Whether some cluster might take it that cannot be reached now."""
        return any(why.startswith(UNREACHABLE) for _, why in self.reasons)

    def __str__(self) -> str:
        return " · ".join(f"{name}: {why}" for name, why in self.reasons) or "no cluster is registered"


def why_not(room: Room, wish: Wish) -> str:
    """The first reason why *room* cannot take *wish*, with its numbers; "" when it can."""
    if wish.cluster and wish.cluster != room.name:
        return f"not {wish.cluster}"
    if wish.region and wish.region != room.region:
        return f"region {room.region} ≠ {wish.region}"
    if wish.isolation_tier != room.isolation_tier:
        return f"tier {room.isolation_tier} ≠ {wish.isolation_tier}"
    return _why_not_now(room) or _why_too_full(room, wish.need)


def why_no_more(room: Room, need: Need) -> str:
    """The same for a gateway that lives there and wants *need* more."""
    return _why_not_now(room) or _why_too_full(room, need)


def _why_not_now(room: Room) -> str:
    if room.state != REGISTERED:
        return room.state
    return f"{UNREACHABLE}{room.unreachable}" if room.unreachable else ""


def _why_too_full(room: Room, need: Need) -> str:
    places, cpu, memory = need
    if places and room.gateways_used + places > room.gateways_max:
        short = f" and {places} are needed" if places > 1 else ""
        return f"gateways {room.gateways_used}/{room.gateways_max}{short}"
    total = room.cpu_millicores_total
    if cpu and total is not None and room.cpu_millicores_used + cpu > total:
        return f"cpu {_cores(room.cpu_millicores_used)}/{_cores(total)} cores and {_cores(cpu)} is needed"
    total = room.memory_bytes_total
    if memory and total is not None and room.memory_bytes_used + memory > total:
        return f"memory {_mib(room.memory_bytes_used)}/{_mib(total)} MiB and {_mib(memory)} is needed"
    return ""


def _cores(millicores: int) -> str:
    return f"{millicores / 1000:.3f}".rstrip("0").rstrip(".")


def _mib(size: int) -> str:
    return f"{size / MIB:.1f}".removesuffix(".0")


def refusal(rooms: Iterable[Room], wish: Wish) -> Refusal:
    """Why none of *rooms* takes *wish*, by name."""
    return Refusal(tuple((r.name, why_not(r, wish)) for r in sorted(rooms, key=lambda r: (r.name, r.id))))


def headroom(room: Room) -> float:
    """The free share of what is scarcest there, over the resources that have a limit; 0 or less when one is used up."""
    free = (room.gateways_max - room.gateways_used) / room.gateways_max if room.gateways_max else 0.0
    if room.cpu_millicores_total is not None:
        free = min(free, (room.cpu_millicores_total - room.cpu_millicores_used) / room.cpu_millicores_total)
    if room.memory_bytes_total is not None:
        free = min(free, (room.memory_bytes_total - room.memory_bytes_used) / room.memory_bytes_total)
    return free


_Entry = tuple[float, str, str]  # headroom, name, id: the order of choice


@dataclass(slots=True)
class _Shelf:
    """Clusters of one tier, and region or any, in the order of choice; and the largest total of each kind ever here."""

    entries: list[_Entry] = field(default_factory=list)
    gateways: int = 1
    cpu: int = 1
    memory: int = 1

    def add(self, entry: _Entry, room: Room) -> None:
        insort(self.entries, entry)
        self.gateways = max(self.gateways, room.gateways_max)
        self.cpu = max(self.cpu, room.cpu_millicores_total or 0)
        self.memory = max(self.memory, room.memory_bytes_total or 0)

    def remove(self, entry: _Entry) -> None:
        del self.entries[bisect_left(self.entries, entry)]

    def first(self, need: Need) -> int:
        """
        Nothing before this index fits: what is scarcest somewhere must be enough, so its free share is at least the
        need's share of the largest total of that kind.
        """
        if not all(need):
            return 0
        least = min(need.places / self.gateways, need.cpu_millicores / self.cpu, need.memory_bytes / self.memory)
        return bisect_left(self.entries, (least, "", ""))


class Pool:
    """Clusters in the order of choice, kept so while gateways come and go. Full and unusable ones are known and skipped."""

    def __init__(self, rooms: Iterable[Room] = ()) -> None:
        self._rooms: dict[str, Room] = {}
        self._shelves: dict[tuple[str, str], _Shelf] = {}
        for room in rooms:
            self.put(room)

    def put(self, room: Room) -> None:
        """*room* as it is now, in place of what was known of it."""
        self.drop(room.id)
        self._rooms[room.id] = room
        if entry := _entry(room):
            for shelf in self._of(room):
                shelf.add(entry, room)

    def drop(self, cluster_id: str) -> None:
        room = self._rooms.pop(cluster_id, None)
        if room is not None and (entry := _entry(room)):
            for shelf in self._of(room):
                shelf.remove(entry)

    def place(self, wish: Wish) -> Room | None:
        """The first in the order of choice that takes *wish*; None when none does."""
        shelf = self._shelves.get((wish.isolation_tier, wish.region))
        if shelf is None:
            return None
        places, cpu, memory = wish.need
        entries, rooms = shelf.entries, self._rooms
        for index in range(shelf.first(wish.need), len(entries)):
            room = rooms[entries[index][2]]
            cpu_total, memory_total = room.cpu_millicores_total, room.memory_bytes_total
            if (
                room.gateways_used + places <= room.gateways_max
                and (not cpu or cpu_total is None or room.cpu_millicores_used + cpu <= cpu_total)
                and (not memory or memory_total is None or room.memory_bytes_used + memory <= memory_total)
                and (not wish.cluster or wish.cluster == room.name)
            ):
                return room
        return None

    def _of(self, room: Room) -> tuple[_Shelf, _Shelf]:
        tier, region = room.isolation_tier, room.region
        return (
            self._shelves.setdefault((tier, region), _Shelf()),
            self._shelves.setdefault((tier, ""), _Shelf()),
        )


def _entry(room: Room) -> _Entry | None:
    """Where it stands in the order; None for one that can take nothing at all."""
    if _why_not_now(room) or room.gateways_used >= room.gateways_max:
        return None
    return headroom(room), room.name, room.id


def place(rooms: Iterable[Room], wish: Wish) -> Room | Refusal:
    """The choice among *rooms*, in whatever order they come, or why there is none."""
    rooms = list(rooms)
    return Pool(rooms).place(wish) or refusal(rooms, wish)
