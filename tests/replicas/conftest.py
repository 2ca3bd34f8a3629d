"""
Several control planes on one database, in one process: `replicas(n)` starts them, each with a state directory of its own.

One SQLite file is enough for everything that does not depend on the database: outside of tests no second process works on
one.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from mcpg.engine.ports import Provisioner
from mcpg.server import ControlPlane
from mcpg.settings import Server
from mcpg.store.journal import Also
from tests.bounds import BOUND_S
from tests.conftest import BOTH, NewDatabase, Plane, audited


class Replica(Plane):
    """One control plane among several."""

    @property
    def epoch(self) -> str:
        return self.engine.epoch

    def crash(self) -> None:
        """What kill -9 leaves of a control plane, as far as one process can show it: nothing of it runs on, nothing is said."""
        engine = self.engine
        engine._stopping = True
        for task in [d.task for d in engine._drivers.values() if d.task] + list(engine._side):
            task.cancel()
        for task in [*engine.leases._tasks, *engine.feed._tasks, *filter(None, [engine._patrol])]:
            task.cancel()
        engine.leases._tasks, engine.feed._tasks = [], []
        engine.leases._is_known = False  # it gives nothing back
        if engine.leases._alarm is not None:
            engine.leases._alarm.cancel()
        clocks = engine.agents._clocks
        for timer in (clocks._flush, clocks._minding):
            if timer is not None:
                timer.cancel()

    def freeze(self) -> None:
        """Its heart stands still and it looks at nothing, but what it works on goes on."""
        for task in self.engine.leases._tasks:
            task.cancel()

    async def says(self, operation_id: str) -> dict[str, Any]:
        """The operation's row."""
        [row] = await self.db.rows("SELECT * FROM operation WHERE id=?", operation_id)
        return dict(row)

    async def sees(self, operation_id: str, state: str) -> dict[str, Any]:
        """The row, once it is in *state*."""

        async def look() -> dict[str, Any] | None:
            row = await self.says(operation_id)
            return row if row["state"] == state else None

        return dict(await self.until(look, f"{operation_id} {state}", BOUND_S))

    async def ask(self, name: str, **body: Any) -> str:
        """Publish, and no more than that: the operation's id, from the headers of its ladder."""
        async with self.client.stream("POST", self.gateways, json={"name": name, **body}) as answer:
            assert answer.status_code == 200, await answer.aread()
            return str(answer.headers["x-operation-id"])


@pytest.fixture(autouse=True)
def long_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Here nobody is dead because the machine stood still for ten seconds: who is silent for a lease is so because the test
    says that. test_processes.py runs processes with the leases that ship.
    """
    for name, module in list(sys.modules.items()):
        if name.startswith("mcpg.") and hasattr(module, "LEASE_S"):
            monkeypatch.setattr(module, "LEASE_S", 3600.0)
            if hasattr(module, "TRUST_S"):
                monkeypatch.setattr(module, "TRUST_S", 3599.0)


async def time_passes(replica: Replica, epoch: str) -> None:
    """As if *epoch* had been silent for longer than a lease. The terms of its rows stay: they say nothing."""
    await replica.db.writer.execute(Also("UPDATE replica SET seen_at=1 WHERE epoch=?", (epoch,)))
    await replica.engine.leases._see_replicas()


Start = Callable[..., Awaitable[list[Replica]]]


@asynccontextmanager
async def running(state_dir: Path, given: Provisioner | None, **settings: Any) -> AsyncIterator[Replica]:
    wanted = {"bind_http": "127.0.0.1:0", "bind_grpc": "127.0.0.1:0", "provisioner": "noop", **settings}
    async with (
        ControlPlane(Server(state_dir=state_dir, **wanted), provisioner=given, shared=True) as control,
        httpx.AsyncClient(base_url=control.started.http_url, timeout=BOUND_S, trust_env=False) as client,
    ):
        yield Replica(control, client)


@pytest.fixture(params=BOTH)
def database(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def db_url(new_database: NewDatabase) -> str:
    """A database for this test alone, that all its control planes work on."""
    where = new_database()
    return where if isinstance(where, str) else f"sqlite:{where}"


@pytest.fixture
async def replicas(tmp_path: Path, db_url: str, request: pytest.FixtureRequest) -> AsyncIterator[Start]:
    """
    `await replicas(2, given=[…])`: control planes on one database; *given* are their provisioners. At the end that is
    audited, but after a test that is marked `damages`.
    """
    async with AsyncExitStack() as stack:
        everyone: list[Replica] = []

        async def start(count: int, *, given: list[Any] | None = None, **settings: Any) -> list[Replica]:
            for number in range(count):
                provisioner = given[number] if given else None
                plane = running(tmp_path / f"state-{len(everyone) + 1}", provisioner, db_url=db_url, **settings)
                everyone.append(await stack.enter_async_context(plane))
            return everyone[-count:]

        yield start
        if everyone and request.node.get_closest_marker("damages") is None:
            await audited(everyone[-1])
