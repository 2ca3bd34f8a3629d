"""
The database of a state directory: one SQLite file that one control plane has to itself. Opened by database.py.

Reads are constant SQL on read-only connections, so none waits for a write (WAL).
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tortoise import Tortoise
from tortoise.context import TortoiseContext
from tortoise.exceptions import BaseORMException
from tortoise.migrations.api import migrate

from mcpg.errors import NewerSchema, StateDirUnusable
from mcpg.store.clock import Clock
from mcpg.store.config import tortoise_config
from mcpg.store.database import Database, Row, known_migrations, prepare_directory
from mcpg.store.journal import Timeout
from mcpg.store.sqlite_writer import SqliteWriter


def applied_migrations(path: Path) -> list[str]:
    """What a database file has had applied; [] for a new or empty one. Never writes."""
    if not path.exists() or path.stat().st_size == 0:
        return []
    try:
        db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        try:
            names = db.execute("SELECT name FROM tortoise_migrations WHERE app='store' ORDER BY name").fetchall()
        finally:
            db.close()
    except sqlite3.OperationalError as exc:
        if "no such table" in str(exc):
            raise StateDirUnusable(
                f"{path} is not a control plane's database",
                cause="it has no record of migrations",
                hint="give another --state-dir or --db-url; this file was not touched",
            ) from exc
        raise StateDirUnusable(f"the database {path} cannot be opened", cause=str(exc)) from exc
    except sqlite3.DatabaseError as exc:
        raise StateDirUnusable(
            f"{path} is not a database", cause=str(exc), hint="restore it from a backup, or move it away to start anew"
        ) from exc
    return [n for (n,) in names]


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _fetch(db: sqlite3.Connection, sql: str, params: Sequence[Any]) -> list[Row]:
    """Whatever bytes the texts are made of: somebody may have edited the file, or the disk did."""
    try:
        return _read(db, sql, params)
    except sqlite3.OperationalError as exc:
        if "Could not decode to UTF-8" not in str(exc):
            raise
    db.text_factory = marked
    try:
        return _read(db, sql, params)
    finally:
        db.text_factory = str


def _read(db: sqlite3.Connection, sql: str, params: Sequence[Any]) -> list[Row]:
    cursor = db.execute(sql, params)
    try:
        names = [d[0] for d in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor]
    finally:
        cursor.close()  # one that is left in the middle keeps its snapshot, and with it every read that follows


def marked(text: bytes) -> str:
    """A text that may be no UTF-8. One that is none begins with U+FFFD, and shows its odd bytes as \\xNN."""
    try:
        return text.decode()
    except UnicodeDecodeError:
        return "\ufffd" + text.decode(errors="backslashreplace")


async def run_migrations(config: dict[str, Any]) -> None:
    """Tortoise's own, in a task of their own: they set a context that nobody else should find."""

    async def job() -> None:
        try:
            await migrate(config=config)
        finally:
            await Tortoise.close_connections()

    await asyncio.create_task(job())


class SqliteDatabase(Database):
    """`path` is the file. Its clock is this machine's, to the millisecond."""

    clock_sql = "CAST(ROUND((julianday('now')-2440587.5)*86400000.0) AS INTEGER)*1000"

    def __init__(self, path: Path, writer: SqliteWriter, orm: TortoiseContext, *, fresh: bool, version: int) -> None:
        super().__init__(str(path), orm, fresh=fresh, schema_version=version)
        self.path = path
        self._reader = self._connect()
        self._turn = False  # whether a snapshot is open
        self._many = self._connect()
        self._thread = ThreadPoolExecutor(1, "reads")
        self._file = _identity(path)
        self.writer = writer

    @classmethod
    async def connect(cls, path: Path, clock: Clock, timeout: Timeout) -> SqliteDatabase:
        """Check, migrate if needed, connect. Raises StateDirUnusable or NewerSchema, having changed nothing."""
        prepare_directory(path.parent)
        applied, known = applied_migrations(path), known_migrations()
        newer = [n for n in applied if n not in known]
        if newer:
            raise NewerSchema(
                f"the database {path} was written by a newer version",
                cause=f"it has migration {newer[-1]}; this version knows up to {known[-1]}",
                hint="run that version again, or give another --state-dir; this file was not touched",
            )
        config = tortoise_config(path)
        orm = TortoiseContext()
        try:
            if applied != known:
                if not path.exists():
                    os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))  # it holds keys: never wider than its owner
                await run_migrations(config)
            with orm:
                await orm.init(config=config)
            db = cls(path, SqliteWriter(path, clock=clock, timeout=timeout), orm, fresh=not applied, version=len(known))
        except (OSError, sqlite3.Error, BaseORMException) as exc:
            await orm.close_connections()
            raise StateDirUnusable(
                f"the database {path} cannot be opened for writing",
                cause=str(exc),
                hint="mend the disk, or the file's mode",
            ) from exc
        except BaseException:
            await orm.close_connections()
            raise
        db.writer.start()
        return db

    def _connect(self) -> sqlite3.Connection:
        """One that only reads."""
        uri = f"file:{quote(str(self.path))}?mode=ro"
        return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)

    def is_in_place(self) -> bool:
        return _identity(self.path) == self._file

    async def rows(self, sql: str, *params: Any) -> list[Row]:
        """
        Made here on the event loop: some 20 µs on a read-only connection that no writer blocks, where a hop to a thread
        would cost five times as much. What may find many belongs to `many`.

        Reads of one turn of the event loop share a snapshot, for to open one costs more than to read. It ends in the next
        turn, before anything is heard of that was written since it was opened: so whoever wrote reads what it wrote.
        """
        if not self._turn:
            self._reader.execute("BEGIN")
            self._turn = True
            asyncio.get_running_loop().call_soon(self._end_turn)
        return _fetch(self._reader, sql, params)

    async def many(self, sql: str, *params: Any) -> list[Row]:
        """On the second connection's own thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, _fetch, self._many, sql, params)

    def _end_turn(self) -> None:
        if self._turn:
            self._turn = False
            self._reader.execute("COMMIT")

    async def close(self) -> None:
        await self.writer.close()
        self._end_turn()
        self._reader.close()
        await asyncio.get_running_loop().run_in_executor(self._thread, self._many.close)
        self._thread.shutdown(wait=False)
        await self._orm.close_connections()
