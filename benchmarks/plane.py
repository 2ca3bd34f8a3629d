"""
The store and the engine in this process, as mcpg/server.py builds them, without HTTP and gRPC; and what must be true
of a database afterwards.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

from benchmarks.measure import Wrong
from mcpg.agent.sessions import Sessions
from mcpg.engine.agents import Agents
from mcpg.engine.loop import Engine
from mcpg.engine.seed import seed
from mcpg.provisioners.noop import Noop
from mcpg.store.clock import now_us
from mcpg.store.database import Database
from mcpg.store.journal import Also, table_timeout

FULL = 2  # what PRAGMA synchronous answers when every commit is synced
PLACES = 10**9


@contextlib.asynccontextmanager
async def database(path: Path) -> AsyncIterator[Database]:
    """A new database with its writer running. Raises Wrong when that does not sync every commit."""
    db = await Database.open(path)
    try:
        await check_synchronous(db)
        yield db
    finally:
        await db.close()


@contextlib.asynccontextmanager
async def engine(path: Path) -> AsyncIterator[Engine]:
    """An engine with the no-op provisioner, room for every gateway there could be, and nobody connected."""
    async with database(path) as db:
        await seed(db, now_us, local_gateways_max=PLACES)
        built = Engine(db, Noop(), timeout=table_timeout)
        built.fleet = Sessions(db)
        built.agents = Agents(built, enrol_base=lambda: "http://127.0.0.1")
        built.mint = built.agents.mint_for_replica
        await built.agents.start()
        await built.start()
        try:
            yield built
        finally:
            await built.stop()
            await built.agents.stop()


async def check_synchronous(db: Database) -> None:
    """
    Ask the writer's own connection, which nobody else can reach, how it syncs: it writes the answer down as a row.

    Raises Wrong unless it is FULL.
    """
    await db.writer.execute(
        Also(
            "INSERT INTO keyring(name,value,created_at)"
            " SELECT 'bench-synchronous',synchronous,0 FROM pragma_synchronous",
            expect=1,
        )
    )
    [found] = ask(db.path, "SELECT value FROM keyring WHERE name='bench-synchronous'")
    await db.writer.execute(Also("DELETE FROM keyring WHERE name='bench-synchronous'", expect=1))
    if int(found) != FULL:
        raise Wrong(f"the writer's PRAGMA synchronous reads {found}, not {FULL}: its figures would not be durable ones")


def ask(path: Path, sql: str) -> list[int]:
    """The first row of *sql*, on a connection of our own: what is in the file, not what somebody remembers."""
    db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return list(db.execute(sql).fetchone())
    finally:
        db.close()
