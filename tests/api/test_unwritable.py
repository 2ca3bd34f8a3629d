"""A database that can be read and not written, or that is to blame for what fails: 503, and `/readyz` says so."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from mcpg.errors import Unavailable
from mcpg.store import postgres_link, reads, writes
from tests.conftest import Plane, StartPlane


@asynccontextmanager
async def read_only(plane: Plane) -> AsyncIterator[None]:
    """Nothing can be written any more; afterwards it can again."""
    if not plane.db_url:
        writer = plane.db.writer._db  # type: ignore[attr-defined]
        writer.execute("PRAGMA query_only=1")  # as on a file system that became read-only
        yield
        writer.execute("PRAGMA query_only=0")
        return
    name = plane.db_url.rpartition("/")[2]
    admin = await asyncpg.connect(plane.db_url)
    others = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname='{name}' AND pid<>pg_backend_pid()"  # noqa: S608
    await admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only=on")
    await admin.execute(others)
    yield
    await admin.execute("SET default_transaction_read_only=off")
    await admin.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    await admin.execute(others)
    await admin.close()


async def ready(plane: Plane) -> tuple[int, str]:
    answer = await plane.client.get("/readyz")
    assert answer.json()["ready"] is (answer.status_code == 200)
    return answer.status_code, answer.json()["checks"]["writes"]


async def test_readyz_says_no_while_nothing_can_be_written(plane: Plane, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "mcpg.store")
    assert await ready(plane) == (200, "ok")
    async with read_only(plane):
        for name in ("edge-1", "edge-2"):
            answer = await plane.client.post(plane.gateways, json={"name": name})
            assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        status, why = await ready(plane)
        assert (status, "read" in why.lower()) == (503, True)
        assert (await plane.client.get("/v1/operations")).status_code == 200, "reads go on"
    traces = [r for r in caplog.records if r.exc_info]
    assert len(traces) == 1, "what goes on is told in a line"

    async def back() -> bool:
        return (await ready(plane))[0] == 200

    await plane.until(back, "ready again, though nobody wrote anything")


@pytest.mark.parametrize("database", ["postgres"])
async def test_readyz_says_no_when_no_heartbeat_went_through_for_too_long(plane: Plane) -> None:
    leases = plane.engine.leases
    for task in leases._tasks:
        task.cancel()
    leases._trusted_until = 0.0
    answer = await plane.client.get("/readyz")
    assert (answer.status_code, "heartbeat" in answer.json()["checks"]["leases"]) == (503, True)


@pytest.mark.parametrize("database", ["postgres"])
async def test_a_lock_that_is_not_had_in_time_is_the_databases_fault(
    start_plane: StartPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    for settings in (postgres_link.SETTINGS, postgres_link.JOURNAL):
        monkeypatch.setitem(settings, "lock_timeout", "100ms")  # type: ignore[arg-type]
    async with start_plane() as plane:
        stranger = await asyncpg.connect(plane.db_url)
        async with stranger.transaction():
            await stranger.execute("LOCK TABLE operation IN ACCESS EXCLUSIVE MODE")
            answers = await asyncio.gather(
                plane.client.get("/v1/operations"),
                plane.client.get("/v1/audit/verify"),
                plane.client.post(plane.gateways, json={"name": "edge-1"}),
            )
        await stranger.close()
        for answer in answers:
            assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
            assert "lock timeout" in answer.json()["detail"]
        assert (await plane.client.get("/v1/operations")).status_code == 200


@pytest.mark.parametrize("database", ["postgres"])
async def test_tables_that_are_gone_are_the_databases_fault(plane: Plane) -> None:
    """As when the database was dropped, and created anew and empty."""
    stranger = await asyncpg.connect(plane.db_url)
    await stranger.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    await stranger.close()
    for answer in (
        await plane.client.get("/v1/operations"),
        await plane.client.get("/v1/orgs"),
        await plane.client.get("/v1/audit/verify"),
        await plane.client.post(plane.gateways, json={"name": "edge-1"}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable"), answer.text
        assert "does not exist" in answer.json()["detail"]
    with pytest.raises(Exception, match="cannot do it now"):
        await plane.engine.leases.renew()  # the heartbeat, 3 s later at the latest
    assert (await ready(plane))[0] == 503


@pytest.mark.parametrize("database", ["sqlite"])
async def test_readyz_says_why_the_database_does_not_answer_and_tries_no_write_then(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(_: object) -> None:
        raise Unavailable("the database does not answer", cause="ConnectionRefusedError: refused")

    monkeypatch.setattr(reads, "ping", away)
    monkeypatch.setattr(writes, "still_failing", away)
    answer = await plane.client.get("/readyz")
    assert (answer.status_code, answer.json()["checks"]["database"]) == (
        503,
        "the database does not answer: ConnectionRefusedError: refused",
    )
