"""The lock that makes the journal transactions of all control planes serial: who holds it and says no more is not waited for."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from mcpg.errors import Unavailable
from mcpg.store import postgres_link, postgres_writer
from mcpg.store.database import Database
from mcpg.store.postgres_link import JOURNAL_LOCK
from tests.bounds import BOUND_S
from tests.store.conftest import born
from tests.store.test_postgres import turn

pytestmark = pytest.mark.parametrize("database", ["postgres"])


async def beginning(con: Any) -> None:
    """As for a batch that was one message, and waited for the lock with it: not waited for once more."""
    await con.execute(postgres_writer._BEGIN)


@pytest.mark.parametrize("is_one_message", [False, True], ids=["statement by statement", "one message"])
async def test_a_peer_that_stops_between_two_halves_of_a_statement_does_not_stop_the_others_either(
    url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, is_one_message: bool
) -> None:
    """Prepared and not sent yet: its session counts as active, and none of PostgreSQL's timeouts ends it."""
    monkeypatch.setitem(postgres_link.JOURNAL, "lock_timeout", "300ms")  # type: ignore[attr-defined]
    monkeypatch.setattr(postgres_writer, "STILL_S", 0.1)
    short = {"idle_in_transaction_session_timeout": "100ms", "statement_timeout": "100ms"}
    silent = await postgres_link.connect(url, **short)
    db = await Database.open(url)
    try:
        await born(db)
        if is_one_message:
            assert (await db.writer.fire(turn("c1", 1))).seq == 2
            monkeypatch.setattr(postgres_writer, "_begin", beginning)
        seq = 2 + is_one_message
        await silent.execute(f"BEGIN; SELECT pg_advisory_xact_lock({JOURNAL_LOCK})")
        await silent.prepare("SELECT count(*) FROM cluster WHERE id=$1")
        async with asyncio.timeout(BOUND_S):
            assert (await db.writer.fire(turn("c1", seq - 1))).seq == seq
    finally:
        await db.close()
    assert [r.getMessage() for r in caplog.records if "stands still" in r.getMessage()]
    silent.terminate()


async def test_a_journal_lock_that_is_held_by_work_is_waited_for(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only who waits for its client is ended."""
    monkeypatch.setitem(postgres_link.JOURNAL, "lock_timeout", "300ms")  # type: ignore[attr-defined]
    monkeypatch.setattr(postgres_writer, "STILL_S", 0.1)
    db, busy = await Database.open(url), await asyncpg.connect(url)
    try:
        await born(db)
        await busy.execute(f"BEGIN; SELECT pg_advisory_xact_lock({JOURNAL_LOCK})")
        work = asyncio.create_task(busy.execute("SELECT pg_sleep(2)"))
        with pytest.raises(Unavailable, match="cannot do it now"):
            await db.writer.fire(turn("c1", 1))
        await work
        await busy.execute("COMMIT")
        assert (await db.writer.fire(turn("c1", 1))).seq == 2
    finally:
        await db.close()
        await busy.close()
