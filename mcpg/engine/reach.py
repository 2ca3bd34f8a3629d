"""
Which clusters could start a gateway now: another axis than their state, with an automatic way back.

This process's provisioner is asked every ten seconds and stands for every cluster of provisioner `local`. Its answer is
written when it changes; between changes only the time of the last good one is, once a minute. Read by rooms.py (the
allocator skips what is unreachable) and shown by the API.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from mcpg.engine.ports import Provisioner
from mcpg.errors import McpgError, Unavailable
from mcpg.store import fleet, writes
from mcpg.store.clock import Clock
from mcpg.store.database import Database

log = logging.getLogger("mcpg.engine")

LOOK_S = 10.0
SAVE_S = 60.0
ANSWER_WITHIN_S = 5.0
HERE = "local"  # what clusters name this process's provisioner by, whichever it is
ELSEWHERE = {"kubernetes": "this version has no kubernetes provisioner"}


class Reach:
    """
    `changed` is told the id of each cluster that became reachable or stopped being so. One that does not *speak* leaves it
    to other replicas to say what they can start.
    """

    def __init__(self, db: Database, provisioner: Provisioner | None, clock: Clock, *, speaks: bool = True) -> None:
        self._db = db
        self._provisioner = provisioner
        self._speaks = speaks
        self._last: str | None = None
        self._clock = clock
        self._seen_at: int | None = None  # when the provisioner last said that it could
        self._reason: str | None = None  # its last answer
        self._saved_at = 0
        self._task: asyncio.Task[None] | None = None
        self.changed: Callable[[str], None] = lambda _: None

    async def start(self) -> None:
        """Look once, then every ten seconds until `stop`."""
        await self.look()
        self._task = asyncio.get_running_loop().create_task(self._watch(), name="reach")

    async def stop(self) -> None:
        """Write down when the last good look was."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
            self._saved_at = 0
            if self._reason == "":
                await self._write("")

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self.look()
            except Unavailable as exc:
                log.warning("reachability was not written down: %s", exc.cause or exc.what)
            except Exception:
                log.exception("could not look at the provisioner; trying again in %.0f s", LOOK_S)

    async def look(self) -> str:
        """Ask the provisioner now, and write down what is news. Why it could not start a gateway, or ""."""
        self._reason = reason = await self._ask()
        if not reason:
            self._seen_at = self._clock()
        await self._write(reason)
        return reason

    async def _ask(self) -> str:
        if self._provisioner is None:
            return "this control plane runs with --provisioner none"
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                return await self._provisioner.reach()
        except TimeoutError:
            return f"the provisioner did not answer within {ANSWER_WITHIN_S:g} s"
        except McpgError as exc:
            return exc.what + (f": {exc.cause}" if exc.cause else "")
        except Exception as exc:  # noqa: BLE001 - whatever it is, no gateway could be started
            return f"{type(exc).__name__}: {exc}"

    async def _write(self, reason: str) -> None:
        """News at once, the age of the evidence once a minute."""
        due = self._clock() - self._saved_at >= SAVE_S * 1e6
        if not self._speaks:
            return
        rows = await fleet.probed_clusters(self._db, HERE)
        if reason != self._last:  # also when another replica has written it already
            self._last = reason
            for row in rows:
                self.changed(row["id"])
        news = [r for r in rows if (bool(r["reachable"]), r["reason"]) != (not reason, reason)]
        wanted = rows if due and not reason else news
        if not wanted:
            return
        await self._db.writer.execute(
            *(
                writes.saw_cluster(r["id"], reachable=not reason, reason=reason, last_seen_at=self._seen_at)
                for r in wanted
            )
        )
        self._saved_at = self._clock()
        for row in news:
            if reason:
                log.warning("cluster %s is unreachable: %s", row["name"], reason)
            else:
                log.info("cluster %s is reachable", row["name"])
            self.changed(row["id"])

    def seen_at(self, provisioner: str) -> int | None:
        """When clusters of *provisioner* were last seen able (microseconds), newer than their rows; None when not here."""
        return self._seen_at if provisioner == HERE else None

    async def first(self, provisioner: str) -> tuple[bool, str, int | None]:
        """What is known of a cluster that is registered now: reachable, why not, last seen."""
        if not self._speaks and provisioner == HERE:
            return True, "", None  # until a replica that can start gateways has looked
        reason = ELSEWHERE[provisioner] if provisioner in ELSEWHERE else await self._ask()
        return not reason, reason, None if reason else self._clock()
