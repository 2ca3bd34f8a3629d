from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from mcpg.agent.gateway import run
from mcpg.agent.gateway_link import Timing
from mcpg.settings import Agent
from tests.bounds import BOUND_S

from .fake_cp import FakeControlPlane, soon

QUICK = Timing(
    heartbeat_s=0.02, status_s=0.02, backoff_first_s=0.01, backoff_cap_s=0.02,
    headers_s=BOUND_S, register_s=BOUND_S, close_s=BOUND_S, goodbye_s=BOUND_S,
)  # fmt: skip
ENROLMENT_URL = "http://127.0.0.1:7843/enroll/v1#token=ENROL-abc"
ANYWHERE = 'gateway: {server: {bind_address: "127.0.0.1:0"}}\n'


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("MCPG_")]:
        monkeypatch.delenv(name)


@pytest.fixture
async def cp() -> AsyncIterator[FakeControlPlane]:
    control_plane = FakeControlPlane()
    await control_plane.start()
    yield control_plane
    await control_plane.stop()


class RunningGateway:
    """Our gateway as a task, and what it told."""

    def __init__(self, settings: Agent, timing: Timing) -> None:
        self.stop = asyncio.Event()
        self.told: list[tuple[str, dict[str, Any]]] = []
        self._news = asyncio.Condition()
        self._events: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue()
        self.port = 0
        self.task = asyncio.create_task(run(settings, stop=self.stop, on_event=self._on_event, timing=timing))

    def _on_event(self, name: str, fields: dict[str, Any]) -> None:
        self.told.append((name, fields))
        self._events.put_nowait((name, fields))
        if name == "listening":
            self.port = fields["port"]

    async def event(self, wanted: str) -> dict[str, Any]:
        """The next event of this name; others before it are let go. Fails with the gateway's own error if it ended."""

        async def next_one() -> dict[str, Any]:
            while True:
                getting = asyncio.create_task(self._events.get())
                await asyncio.wait({getting, self.task}, return_when=asyncio.FIRST_COMPLETED)
                if not getting.done():
                    getting.cancel()
                    self.task.result()
                    raise AssertionError(f"the gateway ended without {wanted}")
                name, fields = getting.result()
                if name == wanted:
                    return fields

        return await soon(next_one())

    @property
    def mcp_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/mcp"

    async def end(self) -> None:
        self.stop.set()
        await soon(self.task)


Start = Callable[..., Awaitable[RunningGateway]]


@pytest.fixture
async def start(tmp_path: Path, cp: FakeControlPlane) -> AsyncIterator[Start]:
    """Starts a gateway in tmp_path/state; it listens anywhere, and says so in a local config without tools."""
    running: list[RunningGateway] = []

    async def start_one(
        *, url: str = ENROLMENT_URL, config: str = ANYWHERE, timing: Timing = QUICK, **more: Any
    ) -> Any:
        path = tmp_path / "gateway.yaml"
        path.write_text(config)
        settings = {"state_dir": tmp_path / "state", "cp_grpc": cp.url, "enrollment_url": url, "config": str(path)}
        gateway = RunningGateway(Agent(**{**settings, **more}), timing)
        running.append(gateway)
        await gateway.event("listening")
        return gateway

    yield start_one
    for gateway in running:
        gateway.stop.set()
        await asyncio.gather(gateway.task, return_exceptions=True)
