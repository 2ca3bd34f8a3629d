"""
The Tortoise engine for SQLite that a web server can live with: BEGIN IMMEDIATE, and cancel-safe enter and exit.

Stock 1.1.9 leaks the connection's lock when a task is cancelled during BEGIN (Sanic cancels a handler when its client
goes away), and its deferred BEGIN fails at once with "database is locked" where another writer commits between a read
and a write. Uses private classes of tortoise-orm, so that is pinned to 1.1.x; tests/store/test_cancel.py guards it.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable
from types import TracebackType
from typing import Any

from tortoise.backends.sqlite.client import SqliteClient, SqliteTransactionContext, SqliteTransactionWrapper
from tortoise.connection import get_connections
from tortoise.exceptions import TransactionManagementError


async def _to_its_end(step: Awaitable[Any]) -> bool:
    """Wait for *step* whatever happens to us; True when we were cancelled meanwhile. Raises what *step* raised."""
    task = asyncio.ensure_future(step)
    cancelled = False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise
            cancelled = True
        except Exception:  # noqa: BLE001 - the result() below raises it, whether or not we were cancelled
            break
    task.result()
    return cancelled


class ImmediateTransaction(SqliteTransactionWrapper):
    async def begin(self) -> None:
        try:
            await self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as exc:
            raise TransactionManagementError(exc) from exc


class SafeTransactionContext(SqliteTransactionContext):
    """Takes the lock, begins, and gives the lock back on every way out."""

    __slots__ = ()

    async def __aenter__(self) -> Any:
        await self._trxlock.acquire()
        try:
            await self.ensure_connection()
            if await _to_its_end(self.connection.begin()):
                await _to_its_end(self.connection.rollback())
                raise asyncio.CancelledError  # noqa: TRY301 - the handler below gives the lock back
        except BaseException:
            self._trxlock.release()
            raise
        self.token = get_connections().set(self.connection_name, self.connection)
        return self.connection

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        cancelled = False
        try:
            if not self.connection._finalized and kind is not TransactionManagementError:
                cancelled = await _to_its_end(self.connection.rollback() if kind else self.connection.commit())
        finally:
            get_connections().reset(self.token)
            self._trxlock.release()
        if cancelled:
            raise asyncio.CancelledError


class SafeSqliteClient(SqliteClient):
    def _in_transaction(self) -> Any:
        return SafeTransactionContext(ImmediateTransaction(self), self._lock)


client_class = SafeSqliteClient
