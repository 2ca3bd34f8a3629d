"""What a caller is told of a PostgreSQL that does not do what it should: what, why, and where to look."""

from __future__ import annotations

import asyncpg
import pytest

from mcpg.errors import Unavailable
from mcpg.store.journal import Also
from mcpg.store.postgres_link import unavailable
from mcpg.store.postgres_reads import Reads
from mcpg.store.postgres_writer import PostgresWriter
from tests.ports import free_port

DOWN = "see that PostgreSQL runs where the control plane's --db-url says; mcpg-ctl doctor"


async def test_of_a_read_nothing_is_said_but_where_to_look() -> None:
    read = Reads(f"postgres://cp@127.0.0.1:{free_port()}/mcpg", 1)
    with pytest.raises(Unavailable) as lost:
        await read.rows("SELECT 1", ())
    await read.close()
    assert (lost.value.what, lost.value.hint) == ("the database does not answer", DOWN)


async def test_of_a_write_that_did_not_come_to_pass_that_is_said() -> None:
    writer = PostgresWriter(f"postgres://cp@127.0.0.1:{free_port()}/mcpg")
    writer.start()
    with pytest.raises(Unavailable) as lost:
        await writer.execute(Also("UPDATE replica SET seen_at=0"))
    await writer.close()
    assert (lost.value.what, lost.value.hint) == ("the database does not answer", f"this was not written; {DOWN}")


def test_a_database_that_answers_and_cannot_do_it() -> None:
    lost = unavailable(asyncpg.DiskFullError("no space left on device"))
    assert (lost.what, lost.hint) == ("the database cannot do it now", "PostgreSQL's log says more; mcpg-ctl doctor")
