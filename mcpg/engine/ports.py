"""
What the engine needs from the outside, as protocols. mcpg/provisioners implement `Provisioner`, mcpg/agent/sessions.py
`Fleet`; tests bring their own.

Every call may be repeated with the same arguments (a crash, a lease taken over): it then answers as if it had been made
once. No transaction is open while one runs. A call raises TemporaryError when trying again may help and PermanentError
when it cannot; any other exception is treated as permanent and its words are shown.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable


async def _stands() -> None:
    """An order that nothing overtakes."""


@dataclass(frozen=True, slots=True)
class Order:
    """
    What should exist for one instance: replicas 1..`replicas`, each running its `config`.

    `operation_id` is the idempotency key: two calls with one id start nothing twice. Of a replica that has to be started,
    `config` reads the rendered YAML that the control plane also pushes to it (PermanentError where there is none), and
    `enrol` mints an enrolment URL (a secret); `uid_of` is the instance_uid it must present. Replicas above `replicas` are
    stopped.

    `check` raises when the order has been overtaken: it is asked before anything is touched, for nothing that another has
    ordered since may be stopped. With `only`, no other replica is started or replaced; without `stops`, none is stopped. So
    an update touches one.
    """

    instance_id: str
    name: str
    operation_id: str
    replicas: int
    config: Callable[[int], Awaitable[str]]
    enrol: Callable[[int], Awaitable[str]]
    uid_of: Callable[[int], str]
    only: frozenset[int] | None = None
    stops: bool = True
    check: Callable[[], Awaitable[None]] = _stands


@dataclass(frozen=True, slots=True)
class Placed:
    """One running replica: the evidence of `apply`. `endpoints` are complete MCP URLs, the one to use first."""

    replica: int
    pid: int
    port: int
    endpoints: tuple[str, ...]
    started: bool  # True when this call started it, False when it was running already


@dataclass(frozen=True, slots=True)
class Answer:
    """
    One probe of one replica's endpoint: `detail` says what was asked and answered, `ms` how long it took. `deaf`: nobody will
    ever reach it there, however long one waits.
    """

    replica: int
    ok: bool
    detail: str
    ms: float = 0.0
    deaf: bool = False


@dataclass(frozen=True, slots=True)
class Exited:
    """A replica's process was seen to end, not by `remove` or `apply`. `words` is the end of its log, cleaned."""

    instance_id: str
    replica: int
    pid: int
    reason: str  # e.g. "exit code 1", "signal 9", "not found after a restart of this machine"
    words: str

    @property
    def process(self) -> str:
        """`pid 17`; of one that ended while nobody watched the number is not known any more."""
        return f"pid {self.pid}" if self.pid else "pid not known any more"

    def __str__(self) -> str:
        """`exit code 1: its last words`; the words of one that was killed tell nothing about why."""
        words = " | ".join(self.words.split("\n"))
        return self.reason if not words or self.reason.startswith("signal") else f"{self.reason}: {words}"


@dataclass(frozen=True, slots=True)
class Removed:
    """What `remove` saw gone: pids in the order of the replicas, and how."""

    pids: tuple[int, ...]
    detail: str


class Provisioner(Protocol):
    """Where gateways run. `name` is what clusters name it by; `observes` says which evidence it can give."""

    name: str
    observes: bool  # False: nothing enrols and nothing answers (the no-op provisioner)

    @property
    def gateway_version(self) -> str:
        """What a gateway that is started now runs, for people; "" when that is not known."""

    async def start(self, on_exit: Callable[[Exited], None]) -> None:
        """Find what runs already and watch it; call `on_exit` for each end seen, also for those missed meanwhile."""

    async def reach(self) -> str:
        """Why no gateway could be started now, or "". Cheap: it is asked every ten seconds, and before a refusal."""

    async def apply(self, order: Order) -> tuple[Placed, ...]:
        """Make it so; returns when the processes exist, not when they serve. Answers with all of 1..`replicas` that run."""

    async def probe(self, instance_id: str) -> tuple[Answer, ...]:
        """Ask every replica's endpoint now. Never raises for a replica that does not answer."""

    async def alive(self, instance_id: str) -> frozenset[int] | None:
        """Which replicas have a process now; None for an instance of which nothing is known here."""

    def dials(self, instance_id: str) -> dict[int, str]:
        """Of the replicas that run, the gRPC URL of the control plane that each was told of, where that is known. Cheap."""

    def is_starting(self, instance_id: str, number: int) -> bool:
        """Whether that replica's process has begun a moment ago and is not at its endpoint yet. Cheap."""

    async def keep(self, instance_id: str, config: str) -> None:
        """`config` was acknowledged as active: from now on it is what a replica boots with."""

    async def remove(self, instance_id: str) -> Removed:
        """Stop every replica and delete its files; succeeds when there is nothing."""

    async def explain(self, config: str) -> str:
        """What is wrong with a config that a gateway refused, beyond the gateway's own words; "" when nothing is known."""

    async def stop(self) -> None:
        """Stop watching. What runs goes on running."""


@runtime_checkable
class Locates(Protocol):
    """A provisioner whose gateways are processes of this machine."""

    def process(self, instance_id: str, number: int) -> tuple[int | None, str]:
        """The pid of a replica, None when it does not run, and the path of its log, "" when there is none. Reads a directory."""


class Fleet(Protocol):
    """
    The agents that are connected now, to whichever replica of the control plane. What is asked of them (`push`, `cut`,
    `drain`) is done here for those connected here; another replica does it when it hears of the operation.
    """

    async def connected(self, instance_id: str) -> int:
        """Open channels of the instance's agents, wherever they are."""

    def is_live(self, agent_id: str) -> bool:
        """Whether this agent has a channel open to this process."""

    def is_connected(self, agent: Mapping[str, Any]) -> bool:
        """Whether the agent of this row has a channel open, here or to another replica that lives."""

    async def settle(self) -> None:
        """Make the rows say which channels are held here, and end those that another replica holds by now."""

    async def push(self, instance_id: str) -> int:
        """Send the assigned config to those connected that have not acknowledged it; how many were sent to."""

    def cut(self, instance_id: str, words: str) -> None:
        """End every channel of the instance, with an error status: what still talks has nothing to come back to."""

    async def drain(self, instance_id: str) -> int:
        """Ask the connected ones to drain (a courtesy that today's gateways ignore); how many were told."""
