"""An open database in this test's directory, and short ways to make rows in it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mcpg.machines import cluster
from mcpg.store.database import Database
from mcpg.store.journal import Birth, Line

COLUMNS = {"region": "r", "isolation_tier": "shared", "provisioner": "noop", "gateways_max": 10}


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    database = await Database.open(tmp_path / "cp.db")
    yield database
    await database.close()


async def born(db: Database, name: str = "c1") -> Line:
    """A cluster row in `registered`, version 1."""
    return (
        await db.writer.submit([Birth(cluster.MACHINE, name, {"name": name, "live_name": name, **COLUMNS}, "test")])
    )[0]
