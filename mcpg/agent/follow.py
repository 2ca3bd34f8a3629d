"""
What an operation that another replica drives asks of the gateways connected here: their config, a drain, an end.

Level-triggered: a line of such an operation is an occasion to look at its instance as it is now, and to do what is not
done yet. Called by control.py for each line the feed brings; which config a gateway should have, sessions.py knows.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict

from mcpg.agent.sessions import Sessions
from mcpg.machines import teardown
from mcpg.store import reads
from mcpg.store.database import Database
from mcpg.store.journal import ROWS, Line

log = logging.getLogger("mcpg.agent")

AGAIN_S = 1.0
STOPPED = frozenset({teardown.State.CONFIRMING.value, teardown.State.DELETED.value})


class Follow:
    """One task while there is something to do, none when there is not."""

    def __init__(self, db: Database, sessions: Sessions) -> None:
        self._db = db
        self._sessions = sessions
        self._waiting: OrderedDict[str, None] = OrderedDict()  # operations, the longest waiting first
        self._task: asyncio.Task[None] | None = None

    def heard(self, line: Line) -> None:
        """A line that another replica wrote."""
        if ROWS[line.machine] != "operation" or not len(self._sessions):
            return
        self._waiting[line.subject] = None
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="follow operations")

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        try:
            while self._waiting:
                operation_id, _ = self._waiting.popitem(last=False)
                try:
                    await self._look(operation_id)
                except Exception as exc:  # noqa: BLE001 - the database is away, most likely: what was heard is not forgotten
                    log.warning("%s could not be followed: %s; trying again", operation_id, exc)
                    self._waiting[operation_id] = None
                    await asyncio.sleep(AGAIN_S)
        finally:
            self._task = None

    async def _look(self, operation_id: str) -> None:
        op = await reads.find_operation(self._db, operation_id)
        if op is None or not self._sessions.holds(op["instance_id"]):
            return
        instance = await reads.find_instance(self._db, op["instance_id"])
        is_teardown = op["machine"] == teardown.MACHINE.name
        if instance is None or instance["deleted_at"] is not None or (is_teardown and op["state"] in STOPPED):
            self._sessions.cut(op["instance_id"], "the gateway was deleted")
        elif is_teardown and op["state"] == teardown.State.DRAINING.value:
            await self._sessions.drain(op["instance_id"])
        elif not is_teardown:
            await self._sessions.push(op["instance_id"])
