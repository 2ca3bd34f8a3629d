"""
Which operations this control plane drives, and who else is there: renewing, taking over, noticing that it was left behind.

A control plane that has its database to itself takes every open row when it starts and gives them back when it stops: no
heartbeat, no task. Where several share one, each beats every three seconds, looks for free rows every second, and stops
driving when it cannot be sure of its leases any more. All of it is level-triggered: whatever was missed is found by the next
look.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from mcpg.engine.operation import Operation
from mcpg.errors import McpgError, Refused
from mcpg.store import lease, reads
from mcpg.store.clock import Clock, short_id
from mcpg.store.database import Database
from mcpg.store.journal import LEASE_S
from mcpg.store.lease import AT_ONCE, RENEW_S, SWEEP_S, TRUST_S, Myself

log = logging.getLogger("mcpg.engine")

Row = dict[str, Any]

CLOCKS_AGREE_S = 1.0  # to within that much nobody is told that they do not
LATE_S = RENEW_S + 1.0  # between two heartbeats of ours: what held one up so long may have held up those of the others


class Leases:
    """
    `take` is told the row of an operation that is ours from now on, `drop` the ids of those that are not any more (of all
    that are driven: None). `driven` answers with what is driven here. `renamed` hears of another replica id.
    """

    take: Callable[[Row], None]
    drop: Callable[[Iterable[str] | None], None]
    driven: Callable[[], Iterable[str]]

    def __init__(self, db: Database, me: Myself, clock: Clock, *, shared: bool, runs_gateways: bool) -> None:
        self.me = me
        self.shared = shared
        self.renamed: Callable[[str], None] = lambda _: None
        self._db = db
        self._clock = clock
        self._runs_gateways = runs_gateways
        self._replicas: dict[str, Row] = {}  # by epoch, as of the last heartbeat
        self._looked = 0.0  # when that was, on the monotonic clock
        self.ahead_s: float | None = None  # how far our clock is ahead of the database's, as of the last heartbeat
        self._is_off = False
        self._trusted_until = 0.0
        self._back_at = 0  # by the database's clock: since when our heartbeats go through again, for a lease's time
        self._alarm: asyncio.TimerHandle | None = None
        self._is_known = False  # whether our row is this start's, and was not given back
        self._tasks: list[asyncio.Task[None]] = []
        self._look = asyncio.Event()

    # ---- what is asked

    @property
    def epoch(self) -> str:
        return self.me.epoch

    @property
    def claim(self) -> str | None:
        """Whom a row is leased to that is accepted here; None where nobody here could run what it needs."""
        return self.epoch if self._runs_gateways or not self.shared else None

    @property
    def is_sure(self) -> bool:
        """Whether what was leased to us still is, by a clock that also runs while this process does not."""
        return not self.shared or time.monotonic() < self._trusted_until

    def holds(self, op: Operation) -> bool:
        """Whether *op* is ours to drive, as far as is known here; the fence of its next move knows for certain."""
        return not self.shared or (op.lease_owner == self.epoch and self.is_sure)

    def is_living(self, epoch: str | None) -> bool:
        """Whether the control plane of that start was heard within a lease's time."""
        if epoch == self.epoch:
            return True
        row = self._replicas.get(epoch or "")
        if row is None:
            return False
        return self._silent_s(row) + time.monotonic() - self._looked < LEASE_S

    def serves(self, grpc_url: str) -> bool:
        """
        Whether gateways that dial *grpc_url* reach a control plane that lived when we last looked. A look that is old, e.g.
        because this process stood still, makes nobody dead: their gateways would be started anew.
        """
        mine = grpc_url == self.me.grpc_url
        return mine or any(r["grpc_url"] == grpc_url and self._silent_s(r) < LEASE_S for r in self._replicas.values())

    def _silent_s(self, row: Row) -> float:
        """
        How long a replica had been silent when we looked, both times by the database's clock. While the database was away
        nobody could be heard: that silence counts from when we were back ourselves. Who left (0) has been silent all along.
        """
        seen_at = row["seen_at"] and max(row["seen_at"], self._back_at)
        return float(row["asked_at"] - seen_at) / 1e6

    def others_run_gateways(self) -> bool:
        """Whether another control plane on this database lives that has a provisioner."""
        return any(r["provisioner"] != "none" and self.is_living(epoch) for epoch, r in self._replicas.items())

    # ---- life

    async def start(self) -> list[Row]:
        """
        Be known, and take what is ours: the rows to drive. The state directory's lock is held. Raises Refused, having
        written nothing, where another that starts on this machine keeps its gateways in another directory.
        """
        began, now = time.monotonic(), self._clock()
        introduced = lease.introduce(self.me, now, self._until(now), self._db.clock_sql)
        if self.shared and self.me.gateways_dir:
            introduced = (lease.agrees(self.me, self._db.clock_sql), *introduced)
        if not self.shared:
            await self._db.writer.execute(*introduced, lease.take_all(self.epoch, self._until(now)))
            self._is_known = True
            return await reads.open_operations(self._db)
        await self._db.writer.execute(*introduced)
        self._is_known = True
        self._trust(began)
        await self._see_replicas()
        rows = await reads.leased_to(self._db, self.epoch)
        spawn = asyncio.get_running_loop().create_task
        self._tasks = [spawn(self._keep(), name="heartbeat"), spawn(self._sweep(), name="sweep")]
        return rows

    async def stop(self) -> None:
        """Nothing is driven any more: others may take it at once, and whoever reads our row sees that we stopped."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._alarm is not None:
            self._alarm.cancel()
        self._tasks = []
        if self._is_known:
            self._is_known = False
            try:
                async with asyncio.timeout(RENEW_S):
                    await self._db.writer.execute(*lease.leave(self.me, self._clock()))
            except (McpgError, TimeoutError) as exc:
                then = f"they end by themselves in {LEASE_S:g} s" if self.shared else "the next start takes them"
                log.warning("leases were not given back: %s (%s)", then, exc)

    # ---- the heartbeat

    async def _keep(self) -> None:
        failed = 0
        while True:
            await asyncio.sleep(RENEW_S)
            try:
                await self.renew()
            except Exception as exc:
                failed += 1
                if failed == 1:
                    trace = None if isinstance(exc, McpgError | TimeoutError) else exc
                    why = str(exc) or f"the database did not answer in {TRUST_S:g} s"  # a TimeoutError has no words
                    log.error("no heartbeat: %s; trying on every %g s", why, RENEW_S, exc_info=trace)  # noqa: TRY400
            else:
                if failed:
                    log.warning("the heartbeat is back after %d that failed", failed)
                failed = 0

    async def renew(self) -> None:
        """One heartbeat: say that we live, renew what is ours, then look at who lives and whether all of it still is."""
        began, now = time.monotonic(), self._clock()
        try:
            async with asyncio.timeout(TRUST_S):
                await self._db.writer.execute(*lease.renew(self.me, self._until(now), self._db.clock_sql))
        except lease.NotMyself as exc:
            was, self.me = self.me.id, dataclasses.replace(self.me, id=short_id("rep-"))
            log.warning("%s (%s): a copied state directory? This one is %s from now on", exc.what, was, self.me.id)
            again = lease.introduce(self.me, now, self._until(now), self._db.clock_sql)
            await self._db.writer.execute(*again)
            self.renamed(self.me.id)
        is_back = time.monotonic() - (self._trusted_until - TRUST_S) > LATE_S
        self._trust(began)
        await self._see_replicas(is_back=is_back)
        await self._reconcile()

    def _until(self, now: int) -> int:
        return now + int(LEASE_S * 1e6)

    def _trust(self, began: float) -> None:
        """Leases are ours for a while from *began*, before the database was asked."""
        self._trusted_until = began + TRUST_S
        if self._alarm is not None:
            self._alarm.cancel()
        left = max(0.0, self._trusted_until - time.monotonic())
        self._alarm = asyncio.get_running_loop().call_later(left, self._left_behind)

    def _left_behind(self) -> None:
        """
        No heartbeat went through for too long: the database is away, or this process stood still. Others may have taken
        what we drive, so nothing is driven until a heartbeat goes through and says what is still ours.
        """
        if self.is_sure:
            return
        if any(True for _ in self.driven()):
            log.warning("leases may have run out: nothing is driven until the database answers")
        self.drop(None)

    async def _see_replicas(self, *, is_back: bool = False) -> None:
        """*is_back*: our heartbeat was late; others, whom the same may have ailed, have a lease's time to be heard."""
        began, now = time.monotonic(), self._clock()
        found = await reads.replicas(self._db)
        self._replicas, self._looked = {r["epoch"]: r for r in found}, time.monotonic()
        if found:
            asked_at = found[0]["asked_at"]
            if not self._back_at:
                self._back_at = asked_at if is_back else 0
            elif asked_at - self._back_at > LEASE_S * 1e6:
                self._back_at = 0  # and not anew at once, however slow the database is: else nobody would ever be dead
            half = (self._looked - began) / 2  # of the round trip: the database looked at its clock somewhere within it
            self._compare((now - asked_at) / 1e6 + half, half)

    def _compare(self, ahead: float, doubt: float) -> None:
        """Our clock is *ahead* seconds ahead of the database's, give or take *doubt*."""
        self.ahead_s = ahead
        is_off = abs(ahead) - doubt > CLOCKS_AGREE_S
        if is_off and not self._is_off:
            log.warning(
                "this machine's clock is %.1f s %s the database's: leases go by the database's, deadlines and the times of"
                " the journal by this one; set the clocks of both", abs(ahead), "ahead of" if ahead > 0 else "behind",
            )  # fmt: skip
        elif self._is_off and not is_off:
            log.info("this machine's clock and the database's agree again")
        self._is_off = is_off

    async def _reconcile(self) -> None:
        """What is leased to us is driven here, and nothing else is."""
        here = set(self.driven())
        ours = {r["id"]: r for r in await reads.leased_to(self._db, self.epoch)}
        for row in ours.values():
            self.take(row)  # which knows what is driven already
        for operation_id in here - ours.keys():  # it has come to rest a moment ago, or is another's
            found = await reads.find_operation(self._db, operation_id)
            if found is not None and found["lease_owner"] not in (None, self.epoch):
                log.warning("%s is driven by %s now", operation_id, found["lease_owner"])
                self.drop([operation_id])

    # ---- the sweep

    def hurry(self) -> None:
        """Somebody said that there are free rows."""
        self._look.set()

    async def _sweep(self) -> None:
        failed = full = False
        while True:
            if not full:
                with suppress(TimeoutError):
                    async with asyncio.timeout(SWEEP_S):
                        await self._look.wait()
                self._look.clear()
            try:
                full = await self.sweep() == AT_ONCE
                failed = False
            except Exception as exc:
                full = False
                if not failed:
                    trace = None if isinstance(exc, McpgError | TimeoutError) else exc
                    log.error("could not look for free operations: %s; trying on", exc, exc_info=trace)  # noqa: TRY400
                failed = True

    async def sweep(self) -> int:
        """Take what nobody drives, some at a time: how many were found. Each by compare-and-set: others sweep too."""
        if not self.is_sure:
            return 0
        now = self._clock()
        found = await reads.claimable(self._db, AT_ONCE, runs_gateways=self._runs_gateways)
        if self._back_at:
            found = [row for row in found if row["lease_owner"] is None or not self.is_living(row["lease_owner"])]
        claims = [self._claim(row, self._until(now)) for row in found]
        won = [row for row in await asyncio.gather(*claims) if row is not None]
        for row in won:
            log.info("%s in %s is driven here from now on", row["id"], row["state"])
            self.take(row)
        return len(found)

    async def _claim(self, row: Row, until: int) -> Row | None:
        """The row as it is ours now, or None: somebody was faster."""
        try:
            await self._db.writer.execute(lease.claim(row, self.epoch, until))
        except Refused:
            return None
        return row | {"lease_owner": self.epoch, "lease_until": until}
