"""
The store and the engine in this process, as mcpg/server.py builds them, without HTTP and gRPC; and what must be true
of a database afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import asyncpg

from benchmarks.measure import Wrong
from mcpg.agent.sessions import Sessions
from mcpg.engine.agents import Agents
from mcpg.engine.loop import Engine
from mcpg.engine.seed import seed
from mcpg.provisioners.noop import Noop
from mcpg.store.clock import now_us
from mcpg.store.database import Database, Where
from mcpg.store.journal import Also, table_timeout

FULL = 2  # what PRAGMA synchronous answers when every commit is synced
PLACES = 10**9


@contextlib.asynccontextmanager
async def database(where: Where) -> AsyncIterator[Database]:
    """A new database with its writer running. Raises Wrong when that does not sync every commit."""
    db = await Database.open(where)
    try:
        await check_synchronous(db, where)
        yield db
    finally:
        await db.close()


@contextlib.asynccontextmanager
async def engine(where: Where) -> AsyncIterator[Engine]:
    """
    An engine with the no-op provisioner, room for every gateway there could be, and nobody connected. On PostgreSQL it
    takes part as one of several control planes, as a server does: leases, the feed, notifications.
    """
    async with database(where) as db:
        await seed(db, now_us, local_gateways_max=PLACES)
        built = Engine(db, Noop(), timeout=table_timeout, shared=db.shared)
        built.fleet = Sessions(db)
        built.agents = Agents(built, enrol_base=lambda: "http://127.0.0.1")
        built.mint = built.agents.mint_for_replica
        await built.agents.start()
        if db.shared:
            await built.feed.start()
        await built.start()
        try:
            yield built
        finally:
            await built.stop()
            await built.agents.stop()


async def check_synchronous(db: Database, where: Where) -> None:
    """
    Ask the database how it syncs; on SQLite the writer's own connection, which nobody else can reach: it writes the answer
    down as a row.

    Raises Wrong unless every commit is synced.
    """
    if isinstance(where, str):
        [row] = await db.rows("SELECT current_setting('fsync') AS f, current_setting('synchronous_commit') AS s")
        if (row["f"], row["s"]) != ("on", "on"):
            raise Wrong(f"fsync is {row['f']}, synchronous_commit {row['s']}: its figures would not be durable ones")
        return
    await db.writer.execute(
        Also(
            "INSERT INTO keyring(name,value,created_at)"
            " SELECT 'bench-synchronous',synchronous,0 FROM pragma_synchronous",
            expect=1,
        )
    )
    [found] = ask(where, "SELECT value FROM keyring WHERE name='bench-synchronous'")
    await db.writer.execute(Also("DELETE FROM keyring WHERE name='bench-synchronous'", expect=1))
    if int(found) != FULL:
        raise Wrong(f"the writer's PRAGMA synchronous reads {found}, not {FULL}: its figures would not be durable ones")


def ask(where: Where, sql: str) -> list[int]:
    """The first row of *sql*, on a connection of our own: what is in the database, not what somebody remembers."""
    if isinstance(where, str):
        with ThreadPoolExecutor(1) as thread:  # whether or not an event loop runs here
            return thread.submit(asyncio.run, _ask_postgres(where, sql)).result()
    db = sqlite3.connect(f"file:{where}?mode=ro", uri=True)
    try:
        return list(db.execute(sql).fetchone())
    finally:
        db.close()


async def _ask_postgres(url: str, sql: str) -> list[int]:
    con = await asyncpg.connect(url)
    try:
        return [int(value) for value in await con.fetchrow(sql)]
    finally:
        await con.close()
