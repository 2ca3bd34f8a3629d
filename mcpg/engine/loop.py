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
from contextlib import suppress

from mcpg import faults
from mcpg.engine import supervision
from mcpg.engine.agents import Agents
from mcpg.engine.attempts import Backoff, again, last_words
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
from mcpg.store import reads, writes
from mcpg.store.clock import Clock, now_us
from mcpg.store.database import Database
from mcpg.store.journal import LEASE_S, ROWS, Fire, Line, Timeout

log = logging.getLogger("mcpg.engine")

TROUBLE_CAP_S = 30.0
STOP_S = 5.0  # for interrupted work to end, when the engine stops
WORK = {**EFFECTS, "compensate": compensate, "restart": supervision.restart}
PAUSED = "paused"  # as every operation machine calls it


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
    ) -> None:
        super().__init__(db, provisioner, timeout=timeout, clock=clock, sizes=sizes)
        self._drivers: dict[str, _Driver] = {}
        self._by_instance: dict[str, str] = {}
        self._strays: dict[str, set[asyncio.Future[Outcome]]] = {}  # by instance: interrupted work that has not ended
        self._stopping = False
        db.writer.listen(self._heard)

    # ---- life

    async def start(self) -> None:
        """Adopt what runs, then take every open operation, whoever left it: an end before that is known when it goes on."""
        faults.reach("start:before:adopt")
        if self.provisioner is not None:
            await self.provisioner.start(self.on_exit)
        faults.reach("start:after:adopt")
        await self.reach.start()
        for row in await reads.open_operations(self.db):
            op = Operation.of(row)
            until = self.clock() + int(LEASE_S * 1e6)
            await self.db.writer.execute(writes.take_over(op.id, op.version, self.epoch, until))
            self.take(op)
        faults.reach("start:after:takeover")
        self.aside(supervision.sweep(self))

    async def stop(self) -> None:
        """Stop driving. Rows rest where they are; the next start takes them."""
        self._stopping = True
        tasks = [d.task for d in self._drivers.values() if d.task] + list(self._side)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if strays := [work for each in self._strays.values() for work in each]:
            await asyncio.wait(strays, timeout=STOP_S)
        await self.reach.stop()
        if self.provisioner is not None:
            await self.provisioner.stop()

    def take(self, op: Operation) -> None:
        """Drive *op* from where it is, unless this process does so already."""
        if op.id in self._drivers or op.is_final or self._stopping:
            return
        driver = _Driver(op)
        self._set_clock(op)
        self._drivers[op.id] = driver
        self._by_instance[op.instance_id] = op.id
        driver.task = asyncio.get_running_loop().create_task(self._run(driver), name=f"drive {op.id}")

    def drives(self, operation_id: str) -> bool:
        """Whether this process is at that operation now."""
        return operation_id in self._drivers

    # ---- what is heard

    def evidence(self, instance_id: str) -> None:
        """Something about this instance changed: whoever waits for it looks again."""
        super().evidence(instance_id)
        driver = self._drivers.get(self._by_instance.get(instance_id, ""))
        if driver is not None:
            driver.wake.set()

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
        if driver is not None and line.dest in driver.op.table.final_values and driver.op.instance_id in self.exits:
            self.aside(supervision.look_after(self, driver.op.instance_id))  # an end that it did not deal with
        if driver is not None:
            if line.seq > driver.op.version:
                driver.heard = line.seq
                driver.wake.set()  # moved by somebody else, or by us a moment ago: the driver compares
        elif ROWS[line.machine] == "operation" and line.dest in TABLES[line.machine].driven:
            self.aside(self._adopt(line.subject))

    async def _adopt(self, operation_id: str) -> None:
        """A row came to rest where the engine moves it on: whoever wrote the line, and whether or not they still wait."""
        row = await reads.find_operation(self.db, operation_id)
        if row is not None:
            self.take(Operation.of(row))

    # ---- driving

    async def _run(self, driver: _Driver) -> None:
        op, trouble = driver.op, 0
        try:
            while not op.is_final:
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
            data=outcome.data, sets=outcome.sets | paused_by(op, outcome), claim=self.epoch, again_at=again_at,
            within_s=outcome.within_s,
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
        for stray in list(self._strays.get(op.instance_id, ())):  # to undo what is still being done would undo nothing
            await self._until(driver, stray, None)
        if driver.is_overtaken or self._left(op) == 0.0:
            busy = "work that was interrupted has not ended yet" if self._strays.get(op.instance_id) else ""
            return None if driver.is_overtaken else await self._late(op, rest, busy)
        work = asyncio.ensure_future(self._attempt(op, rest))
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

    def _interrupt(self, op: Operation, rest: Work, work: asyncio.Future[Outcome]) -> None:
        """Ask work that nobody waits for any more to end. Until it has, no other work begins on its gateway."""
        if work.done():
            if not work.cancelled():
                work.exception()  # it was heard, or overtaken: either way nobody else will ask
            return
        log.info("%s: %s is interrupted in %s", op.id, rest.effect, op.state)
        strays = self._strays.setdefault(op.instance_id, set())
        strays.add(work)

        def ended(done: asyncio.Future[Outcome]) -> None:
            strays.discard(done)
            if not strays and self._strays.get(op.instance_id) is strays:
                del self._strays[op.instance_id]
            if not done.cancelled() and (exc := done.exception()) is not None:
                log.info("%s: interrupted, %s said: %s", op.id, rest.effect, exc)

        work.add_done_callback(ended)
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
            waits = [w for w in (left, found.again_s) if w is not None]
            try:
                async with asyncio.timeout(min(waits) if waits else None):
                    await driver.wake.wait()
            except TimeoutError:
                continue
            row = await reads.find_operation(self.db, op.id)
            if row is not None and row["version"] != at:
                return None


def paused_by(op: Operation, outcome: Outcome) -> dict[str, object]:
    """What a row that comes to wait for an operator remembers: where it was, and why. {} for any other move."""
    moves = op.table.moves
    if not any(m.event is outcome.event and m.source.value == op.state and m.dest.value == PAUSED for m in moves):
        return {}
    if op.table.step(op.state, outcome.event, outcome.facts).value != PAUSED:
        return {}
    return {"paused_in": op.state, "error": outcome.reason, "code": outcome.data.get("code", "failed")}
