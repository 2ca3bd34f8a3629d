"""Tortoise transactions survive what a web server does to them: their caller is cancelled at any point."""

from __future__ import annotations

import ast
import asyncio
from pathlib import Path
from typing import Any

import pytest
from tortoise.transactions import in_transaction

from mcpg.store.clock import now_us, uuid7
from mcpg.store.database import Database
from mcpg.store.models import Org
from tests.bounds import BOUND_S

MCPG = Path(__file__).parents[2] / "mcpg"


async def make_org(db: Database, slug: str) -> None:
    async def work(tx: Any) -> None:
        await Org.create(id=uuid7(), slug=slug, name=slug, created_at=now_us(), using_db=tx)

    await db.run_tx(work)


@pytest.mark.long
async def test_four_hundred_cancels_and_the_database_still_writes(db: Database) -> None:
    """Stock Tortoise hangs for ever after a few: the lock taken before BEGIN is never given back."""
    for i in range(400):
        task = asyncio.create_task(make_org(db, f"o{i}"))
        for _ in range(i % 7):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    async with asyncio.timeout(BOUND_S):
        await make_org(db, "last")
    assert await db.one("SELECT 1 FROM org WHERE slug=?", "last") is not None


@pytest.mark.parametrize("database", ["sqlite"])
async def test_a_bare_transaction_that_is_cancelled_gives_its_lock_back(db: Database) -> None:
    """The engine itself, without run_tx: every way out of enter and exit releases."""

    async def bare(i: int) -> None:
        db._orm.__enter__()
        async with in_transaction("default") as connection:
            await Org.create(id=uuid7(), slug=f"b{i}", name="b", created_at=now_us(), using_db=connection)

    for i in range(200):
        task = asyncio.create_task(bare(i))
        for _ in range(i % 9):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    async with asyncio.timeout(BOUND_S):
        await make_org(db, "last")
    assert await db.one("SELECT 1 FROM org WHERE slug=?", "last") is not None


async def test_a_failing_transaction_leaves_nothing(db: Database) -> None:
    async def work(connection: Any) -> None:
        await Org.create(id=uuid7(), slug="half", name="h", created_at=now_us(), using_db=connection)
        raise LookupError

    with pytest.raises(LookupError):
        await db.run_tx(work)
    assert await db.one("SELECT 1 FROM org WHERE slug=?", "half") is None


def test_only_run_tx_opens_a_tortoise_transaction() -> None:
    users = {
        str(path.relative_to(MCPG))
        for path in MCPG.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Name) and node.id == "in_transaction"
    }
    assert users == {"store/database.py"}


def test_only_the_journal_writes_a_state() -> None:
    """No other SQL sets `state=` or `version=` of a row, and no other module inserts into the journal."""
    writers = set()
    for path in MCPG.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                text = " ".join(node.value.split())
                if "INTO journal" in text or (
                    text.startswith("UPDATE") and ("SET state" in text or ",version=" in text)
                ):
                    writers.add(str(path.relative_to(MCPG)))
    assert writers == {"store/journal.py"}
