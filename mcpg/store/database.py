"""
The database as everything above the store knows it: reads, the journal writer, one transaction of Tortoise, a wake-up.

`Database.open` chooses by what it is given: a path is SQLite (sqlite_database.py), a postgres URL is PostgreSQL
(postgres_database.py), which several control planes may share. One SQL text serves both: see sql.py.
"""

from __future__ import annotations

import asyncio
import os
import pkgutil
import stat
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from tortoise.context import TortoiseContext
from tortoise.transactions import in_transaction

from mcpg.errors import StateDirUnusable
from mcpg.host.database_url import scheme_of
from mcpg.machines import TABLES
from mcpg.store import migrations
from mcpg.store.clock import Clock, now_us
from mcpg.store.journal import Also, Timeout, table_timeout
from mcpg.store.writer import JournalWriter

T = TypeVar("T")
Row = dict[str, Any]
Where = Path | str  # a SQLite file, or the URL of a PostgreSQL database

POSTGRES_SCHEMES = ("postgres", "postgresql")


def known_migrations() -> list[str]:
    """The names of this version's migrations, oldest first. Their number is the schema version."""
    return sorted(m.name for m in pkgutil.iter_modules(migrations.__path__) if m.name[0].isdigit())


def locate(db_url: str, state_dir: Path) -> Where:
    """What a `--db-url` names: a postgres URL, its scheme in small letters, else a file."""
    scheme = scheme_of(db_url)
    if scheme in POSTGRES_SCHEMES:
        return f"{scheme}:{db_url.strip().partition(':')[2]}"
    return sqlite_path(db_url, state_dir)


def sqlite_path(db_url: str, state_dir: Path) -> Path:
    """The file a `--db-url` names (`sqlite://PATH?…`, `sqlite:PATH`); the state directory's own when it is empty."""
    if not db_url:
        return state_dir / "cp-state.db"
    scheme, _, rest = db_url.partition(":")
    path = rest.removeprefix("//").partition("?")[0]
    if scheme != "sqlite" or not path or path == ":memory:":
        known = scheme_of(db_url)
        raise StateDirUnusable(
            f"a database at {known}:… is not supported" if known else "--db-url names no database",
            cause="state is kept in one SQLite file, or in a PostgreSQL database",
            hint="leave --db-url out, or give sqlite:///absolute/path.db or postgres://USER@HOST/DATABASE",
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


class Database(ABC):
    """
    An open database. `writer` is the only way to a state; `shown` is where it is, without a password; `fresh` says whether
    this start created it. `clock_sql` is its own clock as an expression of SQL: microseconds since the epoch, UTC.
    """

    writer: JournalWriter
    clock_sql: str

    shared = False  # several control planes may work on it at once

    def __init__(self, shown: str, orm: TortoiseContext, *, fresh: bool, schema_version: int) -> None:
        self.shown = shown
        self.fresh = fresh
        self.schema_version = schema_version
        self._orm = orm
        self._live: set[asyncio.Task[Any]] = set()
        self.probe: asyncio.Task[None] | None = None  # see writes.py, `still_failing`

    @staticmethod
    async def open(where: Where, *, clock: Clock = now_us, timeout: Timeout = table_timeout) -> Database:
        """
        Check, migrate if needed, connect. Raises StateDirUnusable, DatabaseUnusable or NewerSchema, having changed nothing.

        The caller holds the lock of the state directory: two processes never migrate one file.
        """
        if isinstance(where, Path):
            from mcpg.store.sqlite_database import SqliteDatabase  # noqa: PLC0415 - one driver is loaded, not both

            db: Database = await SqliteDatabase.connect(where, clock, timeout)
        else:
            from mcpg.store.postgres_database import PostgresDatabase  # noqa: PLC0415

            db = await PostgresDatabase.connect(where, clock, timeout)
        try:
            await db.writer.execute(
                *(
                    Also(
                        "INSERT INTO definition(hash,machine,body,first_seen_at) VALUES(?,?,?,?) ON CONFLICT DO NOTHING",
                        (t.definition_hash, t.name, t.canonical, clock()),
                    )
                    for t in TABLES.values()
                )
            )
        except BaseException:
            await db.close()
            raise
        return db

    @abstractmethod
    async def rows(self, sql: str, *params: Any) -> list[Row]:
        """The rows of an indexed read that finds few of them, as dicts. On SQLite it does not wait for anything."""

    @abstractmethod
    async def many(self, sql: str, *params: Any) -> list[Row]:
        """The rows of a read that may find many, as dicts."""

    async def one(self, sql: str, *params: Any) -> Row | None:
        """The first row, or None."""
        found = await self.rows(sql, *params)
        return found[0] if found else None

    async def run_tx(self, work: Callable[[Any], Awaitable[T]]) -> T:
        """
        Run `work(connection)` in one transaction of Tortoise, in a task of its own: a cancelled caller never cancels BEGIN
        or COMMIT. Never create a task inside *work*: it would join the transaction.
        """

        async def job() -> T:
            self._orm.__enter__()  # this task's own context: nothing to leave it for
            async with in_transaction(self._orm.default_connection) as connection:
                return await work(connection)

        task = asyncio.create_task(job())
        self._live.add(task)
        task.add_done_callback(self._live.discard)
        return await asyncio.shield(task)

    def is_in_place(self) -> bool:
        """Whether what is open is still what its name leads to; a deleted file is written to in vain."""
        return True

    async def listen(self, heard: Callable[[str], None]) -> None:  # noqa: B027 - nobody else is there to be heard
        """
        From now on `heard(text)` is called for what any control plane on this database notifies; `heard("")` when some may
        have been missed. A database that one control plane has to itself never calls it.
        """

    async def notify(self, text: str) -> None:  # noqa: B027
        """Wake whoever listens, here and elsewhere. A hint that may be lost: never raises for a database that is away."""

    async def close(self) -> None:
        """Commit what waits, then close every connection."""
        await self.writer.close()
        await self._orm.close_connections()
