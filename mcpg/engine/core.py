"""
What every part of the engine shares: the database, the outside, the clock, and who is told that something changed.

`loop.Engine` is this with drivers. Effects, evidence, requests and agents know only this, so none of them needs the loop.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from mcpg import __version__
from mcpg.engine.attempts import Backoff
from mcpg.engine.bus import Bus
from mcpg.engine.feed import Feed
from mcpg.engine.leases import Leases
from mcpg.engine.operation import Operation
from mcpg.engine.ports import Exited, Fleet, Provisioner
from mcpg.engine.reach import Reach
from mcpg.engine.rooms import Rooms
from mcpg.engine.sizes import DEFAULT, Sizes, parse
from mcpg.store.clock import Clock, now_us
from mcpg.store.database import Database
from mcpg.store.journal import Timeout
from mcpg.store.lease import Myself

log = logging.getLogger("mcpg.engine")


@dataclass(frozen=True, slots=True)
class Scope:
    """An environment, by slugs that exist."""

    org: str
    workspace: str
    environment: str

    def __str__(self) -> str:
        return f"{self.org}/{self.workspace}/{self.environment}"


def new_epoch() -> str:
    return f"e-{secrets.token_hex(8)}"


class Core:
    """
    `me` says which replica of the control plane this is; with `shared`, others may be on the same database. `epoch` is this
    start's identity: who holds a lease, never a host name. `exits` holds, by instance and replica, an end that no operation
    has dealt with yet; `accepted` what is being written down as new; `at_work`, by instance, work that has not ended,
    interrupted or not. `mint` makes the enrolment URL of one replica. `sizes` is what a replica takes.
    """

    fleet: Fleet
    mint: Callable[[Operation, int], Awaitable[str]]
    backoff = Backoff()

    def __init__(
        self,
        db: Database,
        provisioner: Provisioner | None,
        *,
        timeout: Timeout,
        clock: Clock = now_us,
        sizes: Sizes | None = None,
        me: Myself | None = None,
        shared: bool = False,
    ) -> None:
        self.db = db
        self.provisioner = provisioner
        self.clock = clock
        self.timeout = timeout
        me = me or Myself("rep-alone", new_epoch(), "", 0, __version__, "", "", self.provisioner_name)
        self.epoch = me.epoch
        self.leases = Leases(db, me, clock, shared=shared, runs_gateways=provisioner is not None)
        self.feed = Feed(db, me.epoch)
        self.bus = Bus()
        self.sizes = sizes or parse(DEFAULT)
        self.reach = Reach(db, provisioner, clock, speaks=provisioner is not None or not shared)
        self.rooms = Rooms(db, self.reach, clock)
        self.exits: dict[str, dict[int, Exited]] = {}
        self.stranded: dict[str, frozenset[int]] = {}
        self.adrift_since: dict[str, int] = {}
        self.accepted: dict[str, Operation] = {}
        self.at_work: dict[str, set[asyncio.Future[Any]]] = {}
        self._awaited: dict[str, set[asyncio.Event]] = {}
        self._side: set[asyncio.Task[None]] = set()

    @property
    def provisioner_name(self) -> str:
        return self.provisioner.name if self.provisioner is not None else "none"

    def adrift(self, instance_id: str) -> frozenset[int]:
        """
        Numbers of the instance's replicas that dial a control plane that is gone: see adrift.py. Those that have been so for
        long, on an instance that nobody works on, are in `stranded`; since when, in `adrift_since`.
        """
        if not self.leases.shared or self.provisioner is None:
            return frozenset()
        dialled = self.provisioner.dials(instance_id)
        return frozenset(number for number, url in dialled.items() if not self.leases.serves(url))

    async def ended(self, instance_id: str) -> dict[int, Exited]:
        """Its replicas' ends that no operation has dealt with. What runs again has another control plane started since."""
        exits = self.exits.get(instance_id)
        if not exits:
            return {}
        running = await self.provisioner.alive(instance_id) if self.provisioner is not None else None
        for number in running or ():
            exits.pop(number, None)
        return dict(sorted(exits.items()))

    def evidence(self, instance_id: str) -> None:
        """Something about this instance changed: whoever waits for it looks again. The engine's drivers hear it too."""
        for event in self._awaited.get(instance_id, ()):
            event.set()

    async def news(self, instance_id: str, seconds: float) -> None:
        """Wait until something about the instance changed, at most *seconds*."""
        event = asyncio.Event()
        waiting = self._awaited.setdefault(instance_id, set())
        waiting.add(event)
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            return
        finally:
            waiting.discard(event)
            if not waiting:
                self._awaited.pop(instance_id, None)

    def aside(self, work: Coroutine[Any, Any, None]) -> None:
        """Run *work* beside everything; a failure is logged."""
        task = asyncio.get_running_loop().create_task(work)
        self._side.add(task)

        def done(t: asyncio.Task[None]) -> None:
            self._side.discard(t)
            if not t.cancelled() and (exc := t.exception()) is not None:
                log.error("%s failed", t.get_name(), exc_info=exc)

        task.add_done_callback(done)
