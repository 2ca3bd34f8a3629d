"""An open database in this test's directory, and short ways to make rows in it."""

from collections.abc import AsyncIterator

import pytest

from mcpg.machines import cluster
from mcpg.store.database import Database, Where
from mcpg.store.journal import Birth, Line
from tests.conftest import BOTH, NewDatabase

COLUMNS = {"region": "r", "isolation_tier": "shared", "provisioner": "noop", "gateways_max": 10}


@pytest.fixture(params=BOTH)
def database(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def where(new_database: NewDatabase) -> Where:
    """The database of this test."""
    return new_database()


@pytest.fixture
def url(where: Where) -> str:
    """Of a database on PostgreSQL."""
    return str(where)


@pytest.fixture
async def db(where: Where) -> AsyncIterator[Database]:
    opened = await Database.open(where)
    yield opened
    await opened.close()


@pytest.fixture
async def other(where: Where) -> AsyncIterator[Database]:
    """A second control plane's, on the same database."""
    opened = await Database.open(where)
    yield opened
    await opened.close()


async def born(db: Database, name: str = "c1") -> Line:
    """A cluster row in `registered`, version 1."""
    return (
        await db.writer.submit([Birth(cluster.MACHINE, name, {"name": name, "live_name": name, **COLUMNS}, "test")])
    )[0]
