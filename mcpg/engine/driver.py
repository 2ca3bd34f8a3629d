"""
One task drives one operation, from the state it is in to the one it rests in. Made and kept by loop.py.

Work is done with no transaction open, and its outcome raised as an event; a wait ends on evidence or at its deadline. Work
that fails in a way that may pass is tried again inside the state's deadline (attempts.py); who moves the row while work
runs, e.g. cancels it, interrupts it, and what comes next begins when it has ended.

A row that is found, after a restart or a lease that ran out, may be past its deadline while what it asks for was done long
ago. So one attempt is made first, which finds that: effects are idempotent. If it fails, the deadline counts at once.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from contextlib import suppress

from mcpg import faults
from mcpg.engine import supervision
from mcpg.engine.attempts import again, last_words, paused_by
from mcpg.engine.bell import Bell
from mcpg.engine.compensation import compensate
from mcpg.engine.core import Core
from mcpg.engine.effects import EFFECTS, failure
from mcpg.engine.evidence import Look, Memory, late, look, patience_s
from mcpg.engine.operation import Operation, Outcome
from mcpg.errors import Refused, TemporaryError, Unavailable
from mcpg.machines.table import Wait, Work
from mcpg.store import reads
from mcpg.store.journal import Fire

log = logging.getLogger("mcpg.engine")

TROUBLE_CAP_S = 30.0
WORK = {**EFFECTS, "compensate": compensate, "restart": supervision.restart}
FIRST_S = 10.0  # for the first attempt at work that was found, however little of its time is left
STOOD_STILL_S = (
    5.0  # that a look is late, and nobody listened meanwhile: this process did not run, or the database was away
)
LOOK_AGAIN_S = 1.0  # for evidence that came to another replica, if its word of that was lost


class Driver:
    """
    One operation under way in this process. `heard` is the newest version that a journal line told of. *found*: its row was,
    and nobody may have driven it for a while.
    """

    def __init__(self, engine: Core, op: Operation, ended: Callable[[Driver], None], *, found: bool = False) -> None:
        self._engine = engine
        self._ended = ended
        self.op = op
        self.wake = Bell()
        self.heard = 0
        self._found = found
        self.task: asyncio.Task[None] | None = None

    @property
    def is_overtaken(self) -> bool:
        """Somebody else moved the row."""
        return self.heard > self.op.version

    async def run(self) -> None:
        """Until it rests in a state that is somebody else's to leave, or another replica has it."""
        op, trouble = self.op, 0
        try:
            while not op.is_final and self._engine.leases.holds(op):
                try:
                    if not await self._turn() and not await self._moved_on():
                        return
                    trouble = 0
                except Exception as exc:
                    # The database, a disk that is full, a mistake of ours: the row rests where it is, and we come back.
                    trouble += 1
                    delay = min(TROUBLE_CAP_S, 0.25 * 2 ** min(trouble, 10))
                    trace = None if isinstance(exc, Unavailable) else exc
                    words = f"{op.id} in {op.state}: {exc}; trying again in {delay:.1f} s"
                    log.error("%s", words, exc_info=trace)  # noqa: TRY400 - a database that is away needs no traceback
                    self.wake.clear()
                    await self.wake.wait(asyncio.get_running_loop().time() + delay)
                    with suppress(Exception):  # then the next turn finds out
                        await self._reload()
        finally:
            self._ended(self)

    async def _turn(self) -> bool:
        """One state's work or wait, and its event. False when the state belongs to somebody else."""
        op, first, self._found = self.op, FIRST_S if self._found else 0.0, False
        try:
            match op.table.rests[op.table.states(op.state)]:
                case Work() as rest:
                    outcome: Outcome | None = await self._work(rest, first)
                case Wait() as rest:
                    outcome = await self._watch(rest)
                case _:
                    return False
            if outcome is None:
                await self._reload()
            else:
                await self._raise(outcome)
        except TemporaryError as exc:  # a companion statement lost a race, e.g. the last room in a cluster
            log.info("%s: %s; looking again", op.id, exc.what)
        except Refused as exc:
            log.info("%s: overtaken in %s: %s", op.id, op.state, exc.what)
            await self._reload()
        return True

    async def _raise(self, outcome: Outcome) -> None:
        op, engine = self.op, self._engine
        again_at = None if outcome.again_s is None else engine.clock() + int(outcome.again_s * 1e6)
        fire = Fire(
            op.table, op.id, outcome.event, "engine", facts=outcome.facts, expect=op.version, reason=outcome.reason,
            data=outcome.data, sets=outcome.sets | paused_by(op, outcome), claim=engine.epoch, fence=engine.epoch,
            again_at=again_at, within_s=outcome.within_s,
        )  # fmt: skip
        try:
            [moved, *_] = await engine.db.writer.submit([fire, *outcome.also])
        except BaseException:
            engine.rooms.changed(outcome.data.get("cluster_id"))  # the room it chose was not taken
            raise
        op.version, op.next_attempt_at = moved.seq, again_at
        op.step = outcome.sets.get("step", op.step)
        op.attempt = 0 if again_at is None else op.attempt + 1
        op.due = None if outcome.again_s is None else asyncio.get_running_loop().time() + outcome.again_s
        if moved.dest != op.state:
            op.state = moved.dest
            allowed, within = engine.timeout(op.table, op.state), outcome.within_s
            seconds = allowed if within is None else min(within, allowed if allowed is not None else within)
            op.deadline_at = None if seconds is None else moved.at + int(seconds * 1e6)
            op.ends = None if seconds is None else asyncio.get_running_loop().time() + seconds

    async def _reload(self) -> None:
        op, engine = self.op, self._engine
        row = await reads.find_operation(engine.db, op.id)
        assert row is not None  # noqa: S101 - operations are never deleted
        op.lease_owner = row["lease_owner"]
        if (row["state"], row["version"]) != (op.state, op.version):
            op.state, op.version, op.deadline_at = row["state"], row["version"], row["deadline_at"]
            op.attempt, op.next_attempt_at = row["attempt"], row["next_attempt_at"]
            op.cancelled, op.step, op.paused_in = bool(row["cancelled"]), row["step"], row["paused_in"]
            op.endpoints = None
            self.set_clock()

    async def _moved_on(self) -> bool:
        """Whether somebody moved the row while we came to rest: asked last, and what is heard while we ask counts too."""
        at = self.op.version
        await self._reload()
        return self.op.version != at or self.is_overtaken

    def set_clock(self) -> None:
        """
        From the stored, absolute deadline to this process's monotonic clock, once for each state that is taken up; and the
        same for an attempt that was put off: a new process waits for the rest of it.

        A wall clock that is set back must not make a state last longer than the definition allows it.
        """
        op, engine = self.op, self._engine
        op.ends = op.due = None
        if op.next_attempt_at is not None:
            op.due = asyncio.get_running_loop().time() + max(0.0, (op.next_attempt_at - engine.clock()) / 1e6)
        if op.deadline_at is not None:
            left = max(0.0, (op.deadline_at - engine.clock()) / 1e6)
            allowed = engine.timeout(op.table, op.state)
            op.ends = asyncio.get_running_loop().time() + (left if allowed is None else min(left, allowed))

    def allow_for_absence(self) -> None:
        """
        Taken up as another process left it, or as we left it when we stood still. Silence is counted from when we listen: a
        wait for agents whose deadline passed while nobody looked ends when they could have come back. What is stored stays.
        """
        op, engine = self.op, self._engine
        rest, allowed = op.table.rests[op.table.states(op.state)], engine.timeout(op.table, op.state)
        if op.ends is None or op.deadline_at is None or allowed is None or not isinstance(rest, Wait):
            return
        if rest.late is not None and rest.late.value == "deadline":  # else it waits for the time itself
            waited = (engine.clock() - op.deadline_at) / 1e6 + allowed
            op.ends = max(op.ends, asyncio.get_running_loop().time() + patience_s(waited))

    def left(self) -> float | None:
        """Seconds to the state's deadline; None without one."""
        return None if self.op.ends is None else max(0.0, self.op.ends - asyncio.get_running_loop().time())

    async def _work(self, rest: Work, first: float) -> Outcome | None:
        """
        One attempt at a state's work, when it is due; it has *first* seconds even past the deadline. None: somebody else
        moved the row, and the work was interrupted.
        """
        op = self.op
        if op.due is not None:
            first = 0.0 if self.left() != 0.0 else first  # it is only waited for, as before
            await self._until(None, op.due - asyncio.get_running_loop().time())
        for other in list(
            self._engine.at_work.get(op.instance_id, ())
        ):  # to undo what is still being done would undo nothing
            await self._until(other, None)
        if self._engine.at_work.get(op.instance_id):
            first = 0.0  # it was waited for as long as the state may take
        if self.is_overtaken or (self.left() == 0.0 and not first):
            busy = "work that was interrupted has not ended yet" if self._engine.at_work.get(op.instance_id) else ""
            return None if self.is_overtaken else await self._late(rest, busy)
        work = self._begin(rest)
        try:
            await self._until_done(work, first)
            if work.cancelled():
                stopped = TemporaryError(f"{rest.effect} was interrupted", cause="by itself: nobody asked for that")
                return again(op, stopped, self._engine.backoff, self.left())
            if work.done():
                return work.result()
        except TemporaryError as exc:
            return again(op, exc, self._engine.backoff, self.left())
        except Unavailable:
            raise
        except Exception as exc:
            if not hasattr(exc, "code"):
                log.exception("%s: %s failed", op.id, rest.effect)
            reason, data = failure(op, exc)
            return Outcome(rest.failed, facts=op.table.facts(), reason=reason, data=data)  # its guards ask for some
        finally:
            self._interrupt(rest, work)
        return None if self.is_overtaken else await self._late(rest)

    async def _attempt(self, rest: Work) -> Outcome:
        faults.reach(f"effect:before:{rest.effect}")
        outcome = await WORK[rest.effect](self._engine, self.op)
        faults.reach(f"effect:after:{rest.effect}")
        return outcome

    async def _until(self, work: asyncio.Future[Outcome] | None, seconds: float | None) -> None:
        """Until *work* is done, *seconds* or the state's deadline have passed, or somebody else moves the row."""
        end = self.op.ends
        if seconds is not None:
            until = asyncio.get_running_loop().time() + seconds
            end = until if end is None else min(end, until)

        def wake(_: object) -> None:
            self.wake.ring()

        if work is not None:
            work.add_done_callback(wake)
        while not self.is_overtaken and not (work is not None and work.done()):
            self.wake.clear()
            if not await self.wake.wait(end):
                break
        if work is not None:
            work.remove_done_callback(wake)

    async def _until_done(self, work: asyncio.Future[Outcome], first: float) -> None:
        """As `_until`, with *first* seconds at least."""
        ends = self.op.ends
        if ends is not None:
            self.op.ends = max(ends, asyncio.get_running_loop().time() + first)
        try:
            await self._until(work, None)
        finally:
            self.op.ends = ends

    def _begin(self, rest: Work) -> asyncio.Future[Outcome]:
        """The effect as a task of its own. Until it has ended, no other work begins on its gateway."""
        work = asyncio.ensure_future(self._attempt(rest))
        at_work = self._engine.at_work.setdefault(self.op.instance_id, set())
        at_work.add(work)

        def ended(done: asyncio.Future[Outcome]) -> None:
            at_work.discard(done)
            if not at_work and self._engine.at_work.get(self.op.instance_id) is at_work:
                del self._engine.at_work[self.op.instance_id]
            if not done.cancelled():
                done.exception()  # heard by who waited, or by nobody: it was overtaken

        work.add_done_callback(ended)
        return work

    def _interrupt(self, rest: Work, work: asyncio.Future[Outcome]) -> None:
        """Ask work that nobody waits for any more to end."""
        if not work.done():
            log.info("%s: %s is interrupted in %s", self.op.id, rest.effect, self.op.state)
            work.cancel()

    async def _late(self, rest: Work, why: str = "") -> Outcome:
        """The deadline has passed; with the last words of what failed before, whichever process heard them."""
        words = why or last_words(await reads.history(self._engine.db, self.op.id), self.op.state)
        reason = f"{rest.effect} did not end in {self._allowed()}" + (f": {words}" if words else "")
        return Outcome(rest.late, reason=reason, data={"code": "deadline"})

    def _allowed(self) -> str:
        return f"{self._engine.timeout(self.op.table, self.op.state) or 0:g} s"

    async def _look(self, memory: Memory) -> Look:
        """A look that fails is no evidence: it is tried again, and the deadline stands."""
        try:
            return await look(self._engine, self.op, memory)
        except (Refused, Unavailable):
            raise
        except Exception as exc:
            if not memory.trouble:
                log.exception("%s: could not look; trying again every second", self.op.id)
            memory.trouble = True
            return Look(again_s=1.0, summary=f"{type(exc).__name__}: {exc}")

    async def _watch(self, rest: Wait) -> Outcome | None:
        """Look until there is an outcome or the deadline passes. None: somebody else moved the row."""
        op, memory, at, loop = self.op, Memory(), self.op.version, asyncio.get_running_loop()
        due, was_away = loop.time(), False
        while True:
            self.wake.clear()
            found = await self._look(memory)
            if loop.time() - due > STOOD_STILL_S and not was_away:  # once: what is always slow is no absence
                was_away = True
                self.allow_for_absence()
            if found.outcome is not None and found.outcome.event.value == "observed":
                await self._raise(found.outcome)
                at = op.version
                continue
            if found.outcome is not None:
                return found.outcome
            left = self.left()
            if left == 0.0 and rest.late is not None:
                return await late(self._engine, op, rest, self._allowed(), found.summary)
            again = LOOK_AGAIN_S if self._engine.leases.shared else None
            waits = [w for w in (left, found.again_s, again) if w is not None]
            due = loop.time() + min(waits) if waits else math.inf
            if not await self.wake.wait(due if waits else None):
                continue
            row = await reads.find_operation(self._engine.db, op.id)
            if row is not None and row["version"] != at:
                return None
