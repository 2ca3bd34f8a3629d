"""
The heartbeat: who is driven, and who is told what was heard. One task drives one operation (driver.py).

Everything is level-triggered: a driver reads the row's state and does what that state says, so a restart is nothing but
taking every open row again. Nothing polls; an idle engine has no task that runs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from mcpg import faults
from mcpg.engine import adrift, supervision
from mcpg.engine.agents import Agents
from mcpg.engine.attempts import PAUSED
from mcpg.engine.core import Core
from mcpg.engine.driver import Driver
from mcpg.engine.neighbours import refuse_another_directory
from mcpg.engine.operation import Operation
from mcpg.engine.ports import Exited, Provisioner
from mcpg.engine.sizes import Sizes
from mcpg.machines import TABLES
from mcpg.store import reads
from mcpg.store.clock import Clock, now_us
from mcpg.store.database import Database
from mcpg.store.journal import ROWS, Line, Timeout
from mcpg.store.lease import Myself

log = logging.getLogger("mcpg.engine")

STOP_S = 5.0  # for interrupted work to end, when the engine stops


class Engine(Core):
    """Drives every open operation of this process."""

    agents: Agents

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
        super().__init__(db, provisioner, timeout=timeout, clock=clock, sizes=sizes, me=me, shared=shared)
        self._drivers: dict[str, Driver] = {}
        self._by_instance: dict[str, str] = {}
        self._stopping = False
        self._patrol: asyncio.Task[None] | None = None
        db.writer.listeners.add(self._heard, self._heard_of_others)
        self.leases.driven = self._drivers.keys
        self.leases.take = lambda row: self.take(Operation.of(row), found=True)
        self.leases.drop = self._drop
        self.feed.looked_at = self._look_again
        self.feed.freed = self.leases.hurry

    # ---- life

    async def start(self) -> None:
        """
        Adopt what runs, then take every open operation that is ours, or nobody's: what ended before that is known then.

        Raises Refused where gateways of this machine are kept in another directory (neighbours.py).
        """
        await refuse_another_directory(self.db, self.leases.me, shared=self.leases.shared)
        faults.reach("start:before:adopt")
        if self.provisioner is not None:
            await self.provisioner.start(self.on_exit)
        faults.reach("start:after:adopt")
        await self.reach.start()
        for row in await self.leases.start():
            self.take(Operation.of(row), found=True)
        faults.reach("start:after:takeover")
        self.aside(supervision.sweep(self))
        if self.leases.shared and self.provisioner is not None:
            self._patrol = asyncio.get_running_loop().create_task(adrift.patrol(self), name="patrol")

    async def stop(self) -> None:
        """Stop driving. Rows rest where they are; the next start takes them, or another replica does now."""
        self._stopping = True
        tasks = [d.task for d in self._drivers.values() if d.task] + list(self._side)
        tasks += [self._patrol] if self._patrol is not None else []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if ending := [work for each in self.at_work.values() for work in each]:
            await asyncio.wait(ending, timeout=STOP_S)
        await self.leases.stop()
        await self.feed.stop(freed=True)
        await self.reach.stop()
        if self.provisioner is not None:
            await self.provisioner.stop()

    def take(self, op: Operation, *, found: bool = False) -> None:
        """
        Drive *op* from where it is, unless this process does so already, the state is somebody else's to leave, or another
        replica has it. *found*: nobody may have looked at it for a while.
        """
        if op.id in self._drivers or op.state not in op.table.driven or self._stopping or not self.leases.holds(op):
            return
        driver = Driver(self, op, self._ended, found=found)
        driver.set_clock()
        if found:
            driver.allow_for_absence()
        self._drivers[op.id] = driver
        self._by_instance[op.instance_id] = op.id
        driver.task = asyncio.get_running_loop().create_task(driver.run(), name=f"drive {op.id}")

    def drives(self, operation_id: str) -> bool:
        """Whether this process is at that operation now."""
        return operation_id in self._drivers

    def _drop(self, ids: Iterable[str] | None) -> None:
        """Stop driving: it is, or may be, another's. What an effect has begun is cut short, and found by who goes on."""
        for operation_id in list(self._drivers if ids is None else ids):
            driver = self._drivers.get(operation_id)
            if driver is not None and driver.task is not None:
                driver.task.cancel()

    def _ended(self, driver: Driver) -> None:
        self._drivers.pop(driver.op.id, None)
        if self._by_instance.get(driver.op.instance_id) == driver.op.id:
            del self._by_instance[driver.op.instance_id]

    # ---- what is heard

    def evidence(self, instance_id: str) -> None:
        """Something about this instance changed: whoever waits for it looks again, here or in another replica."""
        super().evidence(instance_id)
        if not self._look_again(instance_id):
            self.feed.look_at(instance_id)

    def _look_again(self, instance_id: str) -> bool:
        driver = self._drivers.get(self._by_instance.get(instance_id, ""))
        if driver is not None:
            driver.wake.ring()
        return driver is not None

    def on_exit(self, exited: Exited) -> None:
        """A replica's process ended by itself: its agent departs, and an operation that needs it fails."""
        log.warning("replica %s/%d (%s) ended: %s", exited.instance_id, exited.replica, exited.process, exited.reason)
        self.exits.setdefault(exited.instance_id, {})[exited.replica] = exited
        self.aside(self.agents.exited(exited))
        self.evidence(exited.instance_id)
        self.aside(supervision.look_after(self, exited.instance_id))

    def _heard(self, line: Line) -> None:
        self.bus.publish(line)
        self.agents.on_line(line)
        self.rooms.on_line(line)
        driver = self._drivers.get(line.subject)
        if driver is not None and line.dest in driver.op.table.final_values:
            self._left_behind(driver.op, line)
        if driver is not None and line.dest != line.source and line.dest in (PAUSED, *driver.op.table.final_values):
            op = driver.op
            log.info("%s %s %s: %s%s", op.id, op.kind, op.name, line.dest, f", {line.reason}" if line.reason else "")
        if driver is not None:
            if line.seq > driver.op.version:
                driver.heard = line.seq
                driver.wake.ring()  # moved by somebody else, or by us a moment ago: the driver compares
        elif ROWS[line.machine] == "operation" and line.dest in TABLES[line.machine].driven:
            new = self.accepted.pop(line.subject, None)
            if new is None:
                self.aside(self._adopt(line.subject))
            else:
                self._begin(new, line)

    def _begin(self, op: Operation, line: Line) -> None:
        """What was accepted here is written down, and known without reading it again."""
        op.state, op.version = line.dest, line.seq
        seconds = self.timeout(op.table, op.state)
        op.deadline_at = None if seconds is None else line.at + int(seconds * 1e6)
        op.lease_owner = self.leases.claim
        self.take(op)

    def _left_behind(self, op: Operation, line: Line) -> None:
        """
        *op* is over: look after an end that it did not deal with, and after what a failure may have left down, e.g. a delete
        that took over from a recovery and was cancelled.
        """
        if op.instance_id in self.exits or line.dest in op.table.failure_values:
            self.aside(supervision.look_after(self, op.instance_id))

    def _heard_of_others(self, line: Line) -> None:
        """A line of another replica. What it drives is its own; what we drive may have been moved by it."""
        self.bus.publish(line)
        self.agents.on_line_of_others(line)
        self.rooms.on_line(line)
        driver = self._drivers.get(line.subject)
        if driver is not None and line.seq > driver.op.version:
            driver.heard = line.seq
            driver.wake.ring()

    async def _adopt(self, operation_id: str) -> None:
        """A row came to rest where the engine moves it on: whoever asked for it, and whether or not they still wait."""
        row = await reads.find_operation(self.db, operation_id)
        if row is not None:
            self.take(Operation.of(row))
