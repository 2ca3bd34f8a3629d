"""
The heartbeat: one task drives one operation, from the state it is in to the one it rests in.

Work is done with no transaction open, and its outcome raised as an event; a wait ends on evidence or at its deadline. Work
that fails in a way that may pass is tried again inside the state's deadline (attempts.py); who moves the row while work
runs, e.g. cancels it, interrupts it, and what comes next begins when it has ended.
Everything is level-triggered: a driver reads the row's state and does what that state says, so a restart is nothing but
taking every open row again. Nothing polls; an idle engine has no task that runs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from contextlib import suppress

from mcpg import faults
from mcpg.engine import adrift, supervision
from mcpg.engine.agents import Agents
from mcpg.engine.attempts import Backoff, again, last_words, paused_by
from mcpg.engine.compensation import compensate
from mcpg.engine.core import Core
from mcpg.engine.effects import EFFECTS, failure
from mcpg.engine.evidence import Look, Memory, late, look
from mcpg.engine.operation import Operation, Outcome
from mcpg.engine.ports import Exited, Provisioner
from mcpg.engine.sizes import Sizes
from mcpg.errors import Refused, TemporaryError, Unavailable
from mcpg.machines import TABLES
from mcpg.machines.table import Wait, Work
from mcpg.store import reads
from mcpg.store.clock import Clock, now_us
from mcpg.store.database import Database
from mcpg.store.journal import ROWS, Fire, Line, Timeout
from mcpg.store.lease import Myself

log = logging.getLogger("mcpg.engine")

TROUBLE_CAP_S = 30.0
STOP_S = 5.0  # for interrupted work to end, when the engine stops
WORK = {**EFFECTS, "compensate": compensate, "restart": supervision.restart}
LOOK_AGAIN_S = 1.0  # for evidence that came to another replica, if its word of that was lost


class _Driver:
    """One operation under way in this process. `heard` is the newest version that a journal line told of."""

    def __init__(self, op: Operation) -> None:
        self.op = op
        self.wake = asyncio.Event()
        self.heard = 0
        self.task: asyncio.Task[None] | None = None

    @property
    def is_overtaken(self) -> bool:
        """Somebody else moved the row."""
        return self.heard > self.op.version


class Engine(Core):
    """Drives every open operation of this process."""

    agents: Agents
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
        super().__init__(db, provisioner, timeout=timeout, clock=clock, sizes=sizes, me=me, shared=shared)
        self._drivers: dict[str, _Driver] = {}
        self._by_instance: dict[str, str] = {}
        self._at_work: dict[
            str, set[asyncio.Future[Outcome]]
        ] = {}  # by instance; also what was interrupted, until it ends
        self._stopping = False
        self._patrol: asyncio.Task[None] | None = None
        db.writer.listeners.add(self._heard, self._heard_of_others)
        self.leases.driven = self._drivers.keys
        self.leases.take = lambda row: self.take(Operation.of(row))
        self.leases.drop = self._drop
        self.feed.looked_at = self._look_again
        self.feed.freed = self.leases.hurry

    # ---- life

    async def start(self) -> None:
        """Adopt what runs, then take every open operation that is ours, or nobody's: what ended before that is known then."""
        faults.reach("start:before:adopt")
        if self.provisioner is not None:
            await self.provisioner.start(self.on_exit)
        faults.reach("start:after:adopt")
        await self.reach.start()
        for row in await self.leases.start():
            self.take(Operation.of(row))
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
        if ending := [work for each in self._at_work.values() for work in each]:
            await asyncio.wait(ending, timeout=STOP_S)
        await self.leases.stop()
        await self.feed.stop(freed=True)
        await self.reach.stop()
        if self.provisioner is not None:
            await self.provisioner.stop()

    def take(self, op: Operation) -> None:
        """
        Drive *op* from where it is, unless this process does so already, the state is somebody else's to leave, or another
        replica has it.
        """
        if op.id in self._drivers or op.state not in op.table.driven or self._stopping or not self.leases.holds(op):
            return
        driver = _Driver(op)
        self._set_clock(op)
        self._drivers[op.id] = driver
        self._by_instance[op.instance_id] = op.id
        driver.task = asyncio.get_running_loop().create_task(self._run(driver), name=f"drive {op.id}")

    def drives(self, operation_id: str) -> bool:
        """Whether this process is at that operation now."""
        return operation_id in self._drivers

    def _drop(self, ids: Iterable[str] | None) -> None:
        """Stop driving: it is, or may be, another's. What an effect has begun is cut short, and found by who goes on."""
        for operation_id in list(self._drivers if ids is None else ids):
            driver = self._drivers.get(operation_id)
            if driver is not None and driver.task is not None:
                driver.task.cancel()

    # ---- what is heard

    def evidence(self, instance_id: str) -> None:
        """Something about this instance changed: whoever waits for it looks again, here or in another replica."""
        super().evidence(instance_id)
        if not self._look_again(instance_id):
            self.feed.look_at(instance_id)

    def _look_again(self, instance_id: str) -> bool:
        driver = self._drivers.get(self._by_instance.get(instance_id, ""))
        if driver is not None:
            driver.wake.set()
        return driver is not None

    def on_exit(self, exited: Exited) -> None:
        """A replica's process ended by itself: its agent departs, and an operation that needs it fails."""
        log.warning("replica %s/%d (pid %d) ended: %s", exited.instance_id, exited.replica, exited.pid, exited.reason)
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
        if driver is not None:
            if line.seq > driver.op.version:
                driver.heard = line.seq
                driver.wake.set()  # moved by somebody else, or by us a moment ago: the driver compares
        elif ROWS[line.machine] == "operation" and line.dest in TABLES[line.machine].driven:
            self.aside(self._adopt(line.subject))

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
            driver.wake.set()

    async def _adopt(self, operation_id: str) -> None:
        """A row came to rest where the engine moves it on: whoever asked for it, and whether or not they still wait."""
        row = await reads.find_operation(self.db, operation_id)
        if row is not None:
            self.take(Operation.of(row))

    # ---- driving

    async def _run(self, driver: _Driver) -> None:
        op, trouble = driver.op, 0
        try:
            while not op.is_final and self.leases.holds(op):
                try:
                    if not await self._turn(driver) and not await self._moved_on(driver):
                        return
                    trouble = 0
                except Exception as exc:
                    # The database, a disk that is full, a mistake of ours: the row rests where it is, and we come back.
                    trouble += 1
                    delay = min(TROUBLE_CAP_S, 0.25 * 2 ** min(trouble, 10))
                    trace = None if isinstance(exc, Unavailable) else exc
                    words = f"{op.id} in {op.state}: {exc}; trying again in {delay:.1f} s"
                    log.error("%s", words, exc_info=trace)  # noqa: TRY400 - a database that is away needs no traceback
                    driver.wake.clear()
                    with suppress(TimeoutError):
                        async with asyncio.timeout(delay):
                            await driver.wake.wait()
                    with suppress(Exception):  # then the next turn finds out
                        await self._reload(op)
        finally:
            self._drivers.pop(op.id, None)
            if self._by_instance.get(op.instance_id) == op.id:
                del self._by_instance[op.instance_id]

    async def _turn(self, driver: _Driver) -> bool:
        """One state's work or wait, and its event. False when the state belongs to somebody else."""
        op = driver.op
        try:
            match op.table.rests[op.table.states(op.state)]:
                case Work() as rest:
                    outcome: Outcome | None = await self._work(driver, rest)
                case Wait() as rest:
                    outcome = await self._watch(driver, rest)
                case _:
                    return False
            if outcome is None:
                await self._reload(op)
            else:
                await self._raise(op, outcome)
        except TemporaryError as exc:  # a companion statement lost a race, e.g. the last room in a cluster
            log.info("%s: %s; looking again", op.id, exc.what)
        except Refused as exc:
            log.info("%s: overtaken in %s: %s", op.id, op.state, exc.what)
            await self._reload(op)
        return True

    async def _raise(self, op: Operation, outcome: Outcome) -> None:
        again_at = None if outcome.again_s is None else self.clock() + int(outcome.again_s * 1e6)
        fire = Fire(
            op.table, op.id, outcome.event, "engine", facts=outcome.facts, expect=op.version, reason=outcome.reason,
            data=outcome.data, sets=outcome.sets | paused_by(op, outcome), claim=self.epoch, fence=self.epoch,
            again_at=again_at, within_s=outcome.within_s,
        )  # fmt: skip
        try:
            [moved, *_] = await self.db.writer.submit([fire, *outcome.also])
        except BaseException:
            self.rooms.changed(outcome.data.get("cluster_id"))  # the room it chose was not taken
            raise
        op.version, op.next_attempt_at = moved.seq, again_at
        op.step = outcome.sets.get("step", op.step)
        op.attempt = 0 if again_at is None else op.attempt + 1
        op.due = None if outcome.again_s is None else asyncio.get_running_loop().time() + outcome.again_s
        if moved.dest != op.state:
            op.state = moved.dest
            allowed, within = self.timeout(op.table, op.state), outcome.within_s
            seconds = allowed if within is None else min(within, allowed if allowed is not None else within)
            op.deadline_at = None if seconds is None else moved.at + int(seconds * 1e6)
            op.ends = None if seconds is None else asyncio.get_running_loop().time() + seconds

    async def _reload(self, op: Operation) -> None:
        row = await reads.find_operation(self.db, op.id)
        assert row is not None  # noqa: S101 - operations are never deleted
        op.lease_owner = row["lease_owner"]
        if (row["state"], row["version"]) != (op.state, op.version):
            op.state, op.version, op.deadline_at = row["state"], row["version"], row["deadline_at"]
            op.attempt, op.next_attempt_at = row["attempt"], row["next_attempt_at"]
            op.cancelled, op.step, op.paused_in = bool(row["cancelled"]), row["step"], row["paused_in"]
            self._set_clock(op)

    async def _moved_on(self, driver: _Driver) -> bool:
        """Whether somebody moved the row while we came to rest: asked last, and what is heard while we ask counts too."""
        at = driver.op.version
        await self._reload(driver.op)
        return driver.op.version != at or driver.is_overtaken

    def _set_clock(self, op: Operation) -> None:
        """
        From the stored, absolute deadline to this process's monotonic clock, once for each state that is taken up; and the
        same for an attempt that was put off: a new process waits for the rest of it.

        A wall clock that is set back must not make a state last longer than the definition allows it.
        """
        op.ends = op.due = None
        if op.next_attempt_at is not None:
            op.due = asyncio.get_running_loop().time() + max(0.0, (op.next_attempt_at - self.clock()) / 1e6)
        if op.deadline_at is not None:
            left = max(0.0, (op.deadline_at - self.clock()) / 1e6)
            allowed = self.timeout(op.table, op.state)
            op.ends = asyncio.get_running_loop().time() + (left if allowed is None else min(left, allowed))

    def _left(self, op: Operation) -> float | None:
        """Seconds to the state's deadline; None without one."""
        return None if op.ends is None else max(0.0, op.ends - asyncio.get_running_loop().time())

    async def _work(self, driver: _Driver, rest: Work) -> Outcome | None:
        """One attempt at a state's work, when it is due. None: somebody else moved the row, and the work was interrupted."""
        op = driver.op
        if op.due is not None:
            await self._until(driver, None, op.due - asyncio.get_running_loop().time())
        for other in list(self._at_work.get(op.instance_id, ())):  # to undo what is still being done would undo nothing
            await self._until(driver, other, None)
        if driver.is_overtaken or self._left(op) == 0.0:
            busy = "work that was interrupted has not ended yet" if self._at_work.get(op.instance_id) else ""
            return None if driver.is_overtaken else await self._late(op, rest, busy)
        work = self._begin(op, rest)
        try:
            await self._until(driver, work, None)
            if work.cancelled():
                stopped = TemporaryError(f"{rest.effect} was interrupted", cause="by itself: nobody asked for that")
                return again(op, stopped, self.backoff, self._left(op))
            if work.done():
                return work.result()
        except TemporaryError as exc:
            return again(op, exc, self.backoff, self._left(op))
        except Unavailable:
            raise
        except Exception as exc:
            if not hasattr(exc, "code"):
                log.exception("%s: %s failed", op.id, rest.effect)
            reason, data = failure(op, exc)
            return Outcome(rest.failed, facts=op.table.facts(), reason=reason, data=data)  # its guards ask for some
        finally:
            self._interrupt(op, rest, work)
        return None if driver.is_overtaken else await self._late(op, rest)

    async def _attempt(self, op: Operation, rest: Work) -> Outcome:
        faults.reach(f"effect:before:{rest.effect}")
        outcome = await WORK[rest.effect](self, op)
        faults.reach(f"effect:after:{rest.effect}")
        return outcome

    async def _until(self, driver: _Driver, work: asyncio.Future[Outcome] | None, seconds: float | None) -> None:
        """Until *work* is done, *seconds* or the state's deadline have passed, or somebody else moves the row."""
        now = asyncio.get_running_loop().time
        ends = [at for at in (None if seconds is None else now() + seconds, driver.op.ends) if at is not None]

        def wake(_: object) -> None:
            driver.wake.set()

        if work is not None:
            work.add_done_callback(wake)
        while not driver.is_overtaken and not (work is not None and work.done()):
            driver.wake.clear()
            try:
                async with asyncio.timeout_at(min(ends) if ends else None):
                    await driver.wake.wait()
            except TimeoutError:
                break
        if work is not None:
            work.remove_done_callback(wake)

    def _begin(self, op: Operation, rest: Work) -> asyncio.Future[Outcome]:
        """The effect as a task of its own. Until it has ended, no other work begins on its gateway."""
        work = asyncio.ensure_future(self._attempt(op, rest))
        at_work = self._at_work.setdefault(op.instance_id, set())
        at_work.add(work)

        def ended(done: asyncio.Future[Outcome]) -> None:
            at_work.discard(done)
            if not at_work and self._at_work.get(op.instance_id) is at_work:
                del self._at_work[op.instance_id]
            if not done.cancelled():
                done.exception()  # heard by who waited, or by nobody: it was overtaken

        work.add_done_callback(ended)
        return work

    def _interrupt(self, op: Operation, rest: Work, work: asyncio.Future[Outcome]) -> None:
        """Ask work that nobody waits for any more to end."""
        if not work.done():
            log.info("%s: %s is interrupted in %s", op.id, rest.effect, op.state)
            work.cancel()

    async def _late(self, op: Operation, rest: Work, why: str = "") -> Outcome:
        """The deadline has passed; with the last words of what failed before, whichever process heard them."""
        words = why or last_words(await reads.history(self.db, op.id), op.state)
        reason = f"{rest.effect} did not end in {self._allowed(op)}" + (f": {words}" if words else "")
        return Outcome(rest.late, reason=reason, data={"code": "deadline"})

    def _allowed(self, op: Operation) -> str:
        return f"{self.timeout(op.table, op.state) or 0:g} s"

    async def _look(self, op: Operation, memory: Memory) -> Look:
        """A look that fails is no evidence: it is tried again, and the deadline stands."""
        try:
            return await look(self, op, memory)
        except (Refused, Unavailable):
            raise
        except Exception as exc:
            if not memory.trouble:
                log.exception("%s: could not look; trying again every second", op.id)
            memory.trouble = True
            return Look(again_s=1.0, summary=f"{type(exc).__name__}: {exc}")

    async def _watch(self, driver: _Driver, rest: Wait) -> Outcome | None:
        """Look until there is an outcome or the deadline passes. None: somebody else moved the row."""
        op, memory, at = driver.op, Memory(), driver.op.version
        while True:
            driver.wake.clear()
            found = await self._look(op, memory)
            if found.outcome is not None and found.outcome.event.value == "observed":
                await self._raise(op, found.outcome)
                at = op.version
                continue
            if found.outcome is not None:
                return found.outcome
            left = self._left(op)
            if left == 0.0 and rest.late is not None:
                return await late(self, op, rest, self._allowed(op), found.summary)
            again = LOOK_AGAIN_S if self.leases.shared else None
            waits = [w for w in (left, found.again_s, again) if w is not None]
            try:
                async with asyncio.timeout(min(waits) if waits else None):
                    await driver.wake.wait()
            except TimeoutError:
                continue
            row = await reads.find_operation(self.db, op.id)
            if row is not None and row["version"] != at:
                return None
