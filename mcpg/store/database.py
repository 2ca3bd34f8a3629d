"""
Opening and closing the database of a state directory: checks, migrations, the writer, and the read-only second connection.

Reads go through `Database.rows`, `one` and `many`: constant SQL on read-only connections, so none waits for a write. Ordinary
writes through Tortoise (tenancy, at human speed) go through `run_tx`, the only place that opens a Tortoise transaction.
"""

from __future__ import annotations

import asyncio
import os
import pkgutil
import sqlite3
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from tortoise import Tortoise
from tortoise.exceptions import BaseORMException
from tortoise.migrations.api import migrate
from tortoise.transactions import in_transaction

from mcpg.errors import NewerSchema, StateDirUnusable
from mcpg.machines import TABLES
from mcpg.store import migrations
from mcpg.store.clock import Clock, now_us
from mcpg.store.config import tortoise_config
from mcpg.store.journal import Also, Timeout, table_timeout
from mcpg.store.writer import JournalWriter

T = TypeVar("T")
Row = dict[str, Any]

_live: set[asyncio.Task[Any]] = set()


async def run_tx(work: Callable[[Any], Awaitable[T]]) -> T:
    """
    Run `work(connection)` in one transaction, in a task of its own: a cancelled caller never cancels BEGIN or COMMIT.

    Never create a task inside *work*: it would join the transaction.
    """

    async def job() -> T:
        async with in_transaction("default") as connection:
            return await work(connection)

    task = asyncio.create_task(job())
    _live.add(task)
    task.add_done_callback(_live.discard)
    return await asyncio.shield(task)


def known_migrations() -> list[str]:
    """The names of this version's migrations, oldest first. Their number is the schema version."""
    return sorted(m.name for m in pkgutil.iter_modules(migrations.__path__) if m.name[0].isdigit())


def sqlite_path(db_url: str, state_dir: Path) -> Path:
    """The file a `--db-url` names (`sqlite://PATH?…`, `sqlite:PATH`); the state directory's own when it is empty."""
    if not db_url:
        return state_dir / "cp-state.db"
    scheme, _, rest = db_url.partition(":")
    path = rest.removeprefix("//").partition("?")[0]
    if scheme != "sqlite" or not path or path == ":memory:":
        raise StateDirUnusable(
            f"a database at {scheme or db_url}:… is not supported",
            cause="this version keeps its state in one SQLite file",
            hint="leave --db-url out, or give sqlite:///absolute/path.db",
        )
    return Path(path).expanduser().absolute()


def prepare_directory(directory: Path) -> None:
    """Create *directory* (0700) or refuse it with the reason."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = directory.stat().st_mode
        if not stat.S_ISDIR(mode):
            raise NotADirectoryError(20, "not a directory")
        probe = directory / f".write-probe-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as exc:
        raise StateDirUnusable(
            f"the state directory {directory} cannot be used",
            cause=f"{exc.strerror or exc} (running as uid {os.getuid()})",
            hint="choose another with --state-dir, or mend its owner and mode",
        ) from exc


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


class Database:
    """An open database. `writer` is the only way to a state; `path` its file; `fresh` whether this start created it."""

    def __init__(self, path: Path, writer: JournalWriter, *, fresh: bool, schema_version: int) -> None:
        self._reader = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, isolation_level=None)
        self.path = path
        self._file = _identity(path)
        self.writer = writer
        self.fresh = fresh
        self.schema_version = schema_version

    @classmethod
    async def open(cls, path: Path, *, clock: Clock = now_us, timeout: Timeout = table_timeout) -> Database:
        """
        Check, migrate if needed, connect. Raises StateDirUnusable or NewerSchema, having changed nothing.

        The caller holds the lock of the state directory: two processes never migrate one file.
        """
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
        try:
            if applied != known:
                if not path.exists():
                    os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))  # it holds keys: never wider than its owner
                await migrate(config=config)
                await Tortoise.close_connections()
            await Tortoise.init(config=config, _enable_global_fallback=True)
            db = cls(
                path, JournalWriter(path, clock=clock, timeout=timeout), fresh=not applied, schema_version=len(known)
            )
            db.writer.start()
            await db.writer.execute(
                *(
                    Also(
                        "INSERT INTO definition(hash,machine,body,first_seen_at) VALUES(?,?,?,?) ON CONFLICT DO NOTHING",
                        (t.definition_hash, t.name, t.canonical, clock()),
                    )
                    for t in TABLES.values()
                )
            )
        except (OSError, sqlite3.Error, BaseORMException) as exc:
            await Tortoise.close_connections()
            raise StateDirUnusable(
                f"the database {path} cannot be opened for writing",
                cause=str(exc),
                hint="mend the disk, or the file's mode",
            ) from exc
        except BaseException:
            await Tortoise.close_connections()
            raise
        return db

    def is_in_place(self) -> bool:
        """Whether the path still leads to the file that is open; a deleted one is written to in vain."""
        return _identity(self.path) == self._file

    async def rows(self, sql: str, *params: Any) -> list[Row]:
        """
        The rows of an indexed read that finds few of them, as dicts.

        Made here on the event loop: some 20 µs on a read-only connection that no writer blocks (WAL), where a hop to a
        thread would cost five times as much. What may find many belongs to `many`.
        """
        cursor = self._reader.execute(sql, params)
        names = [d[0] for d in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor]

    async def many(self, sql: str, *params: Any) -> list[Row]:
        """The rows of a read that may find many, as dicts, on the second connection's own thread."""
        found: list[Row] = await Tortoise.get_connection("ro").execute_query_dict(sql, list(params))
        return found

    async def one(self, sql: str, *params: Any) -> Row | None:
        """The first row, or None."""
        found = await self.rows(sql, *params)
        return found[0] if found else None

    async def close(self) -> None:
        await self.writer.close()
        self._reader.close()
        await Tortoise.close_connections()
