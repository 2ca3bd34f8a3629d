"""A text in the file that is no UTF-8, as an editor of databases or a bad disk leaves it, spoils no other read."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing

import pytest

from mcpg.store.database import Database, Row
from tests.store.conftest import born

REASON = "UPDATE journal SET reason={} WHERE seq=1"
Read = Callable[..., Awaitable[list[Row]]]


@pytest.fixture
def database() -> str:
    """PostgreSQL takes no such text."""
    return "sqlite"


def edit(db: Database, sql: str) -> None:
    with closing(sqlite3.connect(db.shown, isolation_level=None)) as editor:
        assert editor.execute(sql).rowcount > 0


@pytest.mark.parametrize("name", ["rows", "many"])
async def test_reads_show_the_odd_bytes_and_go_on_with_what_is_newer(db: Database, name: str) -> None:
    read: Read = getattr(db, name)
    await born(db)
    edit(db, REASON.format("CAST(x'ff41' AS TEXT)"))
    gc.disable()  # what is left in the middle of a read must not depend on being swept up
    try:
        found = await read("SELECT reason, seq FROM journal")
        assert found == [{"reason": "\ufffd\\xffA", "seq": 1}]
        await asyncio.sleep(0)  # the next turn sees what is new
        edit(db, REASON.format("'mended'"))
        await born(db, "c2")
        await asyncio.sleep(0)  # the next turn sees what is new
        found = await read("SELECT reason FROM journal ORDER BY id")
        assert [row["reason"] for row in found] == ["mended", ""]
    finally:
        gc.enable()
