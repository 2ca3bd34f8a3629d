"""
A PostgreSQL database that several control planes may share. Opened by database.py.

Reads go through a few connections (postgres_reads.py), the journal through its writer's own, notifications through another.
What is lost with a connection is asked again once, then callers hear Unavailable; nobody waits for longer than
postgres_link.py says.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import asyncpg
from tortoise.context import TortoiseContext
from tortoise.exceptions import BaseORMException

from mcpg.errors import DatabaseUnusable, McpgError, NewerSchema, Unavailable
from mcpg.host.database_url import shown
from mcpg.store.clock import Clock
from mcpg.store.config import postgres_config
from mcpg.store.database import Database, Row, known_migrations
from mcpg.store.journal import Timeout
from mcpg.store.postgres_link import (
    CHANNEL,
    CONNECT_S,
    INDEXED,
    MIGRATION_LOCK,
    Connection,
    connect,
    unusable,
    words,
)
from mcpg.store.postgres_reads import Reads
from mcpg.store.postgres_writer import PostgresWriter
from mcpg.store.sqlite_database import run_migrations

log = logging.getLogger("mcpg.store")

READERS = 4  # connections for reads that find few rows: on few cores more of them are slower, not faster
READERS_OF_MANY = 2  # for those that may find many, so that none of the others waits behind one
MIGRATION_WAIT_S = 120.0  # for another control plane that migrates
RELISTEN_S = (0.05, 2.0)  # the first and the longest pause before a lost listener connects again
PULSE_S = 15.0  # between two questions on the listening connection, which else would not notice a cut

_TABLES = """
SELECT c.relname FROM pg_class c WHERE c.relnamespace=to_regnamespace(current_schema()) AND c.relkind IN ('r','p')
 AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.objid=c.oid AND d.deptype='e')
"""


async def applied_migrations(con: Connection, url: str) -> list[str]:
    """What the database has had applied; [] for an empty one. Refuses somebody else's. Never writes."""
    tables = [name for (name,) in await con.fetch(_TABLES)]
    if "tortoise_migrations" in tables:
        found = await con.fetch("SELECT name FROM tortoise_migrations WHERE app='store' ORDER BY name")
        return [name for (name,) in found]
    if tables:
        raise DatabaseUnusable(
            f"{shown(url)} is not a control plane's database",
            cause=f"it has tables and no record of migrations: {', '.join(sorted(tables)[:5])}",
            hint="give a database of its own in --db-url; this one was not touched",
        )
    return []


def _refuse_newer(applied: list[str], known: list[str], url: str) -> None:
    newer = [name for name in applied if name not in known]
    if newer:
        raise NewerSchema(
            f"the database {shown(url)} was written by a newer version",
            cause=f"it has migration {newer[-1]}; this version knows up to {known[-1]}",
            hint="run that version again, or give another --db-url; this one was not touched",
        )


async def migrated(con: Connection, url: str) -> bool:
    """
    Every migration is applied after this, by us or by another control plane that starts; False when there was none before.

    The lock is tried, not waited for: a session that waits for one may not be ended by what ends it otherwise.
    """
    known = known_migrations()
    loop = asyncio.get_running_loop()
    end, pause, was_empty = loop.time() + MIGRATION_WAIT_S, 0.05, False
    while True:
        applied = await applied_migrations(con, url)
        _refuse_newer(applied, known, url)
        was_empty = was_empty or not applied
        if applied == known:
            return not was_empty
        if await con.fetchval("SELECT pg_try_advisory_lock($1)", MIGRATION_LOCK):
            break
        if loop.time() > end:
            raise DatabaseUnusable(
                f"{shown(url)} is being migrated by another control plane",
                cause=f"it has held the lock for {MIGRATION_WAIT_S:g} s",
                hint="see what it does: SELECT pid, state, query FROM pg_stat_activity",
            )
        await asyncio.sleep(pause)
        pause = min(1.0, pause * 2)
    try:
        if await applied_migrations(con, url) != known:
            await run_migrations(postgres_config(url, statement_timeout="0", idle_in_transaction_session_timeout="60s"))
    finally:
        with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            await con.execute(f"SELECT pg_advisory_unlock({MIGRATION_LOCK})")
    return not was_empty


class PostgresDatabase(Database):
    shared = True
    clock_sql = "CAST(extract(epoch FROM clock_timestamp())*1000000 AS bigint)"

    def __init__(self, url: str, writer: PostgresWriter, orm: TortoiseContext, *, fresh: bool, version: int) -> None:
        super().__init__(shown(url), orm, fresh=fresh, schema_version=version)
        self.writer = writer
        self._url = url
        self._few = Reads(url, READERS, **INDEXED)
        self._lots = Reads(url, READERS_OF_MANY)
        self._heard: list[Callable[[str], None]] = []
        self._listener: asyncio.Task[None] | None = None

    @classmethod
    async def connect(cls, url: str, clock: Clock, timeout: Timeout) -> PostgresDatabase:
        """Check, migrate if needed, connect. Raises DatabaseUnusable or NewerSchema, having changed nothing."""
        orm = TortoiseContext()
        try:
            con = await connect(url)
            try:
                had_one = await migrated(con, url)
            finally:
                con.terminate()
            with orm:
                await orm.init(config=postgres_config(url))
        except McpgError:
            raise
        except (
            OSError,
            ValueError,
            OverflowError,
            asyncpg.PostgresError,
            asyncpg.InterfaceError,
            BaseORMException,
        ) as exc:
            await orm.close_connections()
            cause = exc.__cause__ if isinstance(exc, BaseORMException) and exc.__cause__ else exc
            raise unusable(url, cause) from None  # a traceback would quote the URL
        except BaseException:
            await orm.close_connections()
            raise
        version = len(known_migrations())
        writer = PostgresWriter(url, clock=clock, timeout=timeout)
        db = cls(url, writer, orm, fresh=not had_one, version=version)
        writer.start()
        return db

    async def rows(self, sql: str, *params: Any) -> list[Row]:
        return await self._few.rows(sql, params)

    async def many(self, sql: str, *params: Any) -> list[Row]:
        return await self._lots.rows(sql, params)

    # ---- wake-ups

    async def listen(self, heard: Callable[[str], None]) -> None:
        self._heard.append(heard)
        if self._listener is None:
            self._listener = asyncio.get_running_loop().create_task(self._listen(), name="listener")

    async def notify(self, text: str) -> None:
        try:
            await self.rows("SELECT pg_notify(?,?)", CHANNEL, text)
        except (Unavailable, asyncpg.PostgresError) as exc:
            log.debug("a notification was not sent: %s", words(exc))

    def _tell(self, text: str) -> None:
        for heard in self._heard:
            heard(text)

    async def _listen(self) -> None:
        first, longest = RELISTEN_S
        pause = first
        while True:
            con: Connection | None = None
            try:
                con = await connect(self._url)
                await con.add_listener(CHANNEL, lambda _con, _pid, _channel, text: self._tell(text))
                lost = asyncio.Event()
                con.add_termination_listener(lambda _con, lost=lost: lost.set())
                pause = first
                self._tell("")  # what was said before we listened
                while not con.is_closed():
                    with suppress(TimeoutError):
                        await asyncio.wait_for(lost.wait(), PULSE_S)
                        break
                    await con.fetchval("SELECT 1", timeout=CONNECT_S)
            except Exception as exc:  # noqa: BLE001 - whatever it is, we connect again
                log.info("listening for other control planes again in %.1f s: %s", pause, words(exc))
            finally:
                if con is not None:
                    con.terminate()
            await asyncio.sleep(pause)
            pause = min(longest, pause * 2)

    async def close(self) -> None:
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.gather(self._listener, return_exceptions=True)
        await super().close()
        await asyncio.gather(self._few.close(), self._lots.close())
