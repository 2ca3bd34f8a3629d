"""A state directory whose gateways all end with the test, the real gateway, and fake ones that behave badly."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from mcpg.engine.ports import Exited, Order
from mcpg.provisioners import local as local_module
from mcpg.provisioners.local import Local
from tests.bounds import BOUND_S

ROOT = Path(__file__).resolve().parents[2]
IN_PACKAGE = "node_modules/@mcpg-dev/cli-linux-x64/bin/mcpg"
TOKEN = "ENROL-do-not-tell-0123456789"


@pytest.fixture(scope="session")
def real_gateway() -> str:
    """The path of the real `mcpg`. Its absence is a failure, not a skip: its behaviour is what is tested here."""
    candidates = [ROOT / ".cache" / "gateway" / IN_PACKAGE]
    if named := os.environ.get("MCPG_TEST_GATEWAY"):
        candidates = [Path(named)]
    for path in candidates:
        if os.access(path, os.X_OK):
            return str(path)
    pytest.fail("the real gateway is not here: `make gateway` fetches it, or MCPG_TEST_GATEWAY names it")


@pytest.fixture
def state_dir(tmp_path: Path) -> Iterator[Path]:
    """Whatever was started for this directory is killed at the end, known by its environment."""
    path = tmp_path / "state"
    yield path
    for pid in of_state_dir(path):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


def of_state_dir(path: Path) -> list[int]:
    """The processes started for gateways of this state directory, with what they have started."""
    found = []
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if entry.isdigit() and b"MCPG_CONFIG=" + str(path).encode() in Path(f"/proc/{entry}/environ").read_bytes():
                found.append(int(entry))
    return found


@pytest.fixture
def fake(tmp_path: Path) -> Callable[[str], str]:
    """A gateway binary made of shell lines; it says its version and then does what the lines say."""

    def make(lines: str) -> str:
        path = tmp_path / f"fake-{uuid.uuid4().hex[:6]}"
        path.write_text(f'#!/bin/sh\n[ "$1" = --version ] && {{ echo "fake 1.0"; exit 0; }}\n{lines}\n')
        path.chmod(0o755)
        return str(path)

    return make


SLEEPER = "exec sleep 3600"


class Exits:
    """What `on_exit` was called with, to be awaited."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Exited] = asyncio.Queue()

    def __call__(self, exited: Exited) -> None:
        self.queue.put_nowait(exited)

    async def next(self) -> Exited:
        async with asyncio.timeout(BOUND_S):
            return await self.queue.get()

    @property
    def none(self) -> bool:
        return self.queue.empty()


@pytest.fixture
def exits() -> Exits:
    return Exits()


@pytest.fixture
def settles(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start is looked at until the gateway listens or has ended, however long that takes: for tests of either."""
    monkeypatch.setattr(local_module, "SETTLE_S", BOUND_S)


@pytest.fixture
async def make(state_dir: Path, exits: Exits) -> AsyncIterator[Callable[..., Local]]:
    """Makes provisioners on the state directory; they stop watching at the end."""
    made: list[Local] = []

    def one(gateway_bin: str, *, stop_grace_s: float = 5.0, grpc_url: str = "http://127.0.0.1:9") -> Local:
        # Port 9 (discard) answers nobody here: the gateways serve, and go on trying to enrol.
        local = Local(
            gateways_dir=state_dir / "gateways", grpc_url=grpc_url, gateway_bin=gateway_bin, stop_grace_s=stop_grace_s
        )
        made.append(local)
        return local

    yield one
    for local in made:
        await local.stop()


async def enrol(replica: int) -> str:
    return f"http://127.0.0.1:9/enroll/v1#token={TOKEN}-{replica}"


def order(instance_id: str, operation_id: str = "op-1", *, replicas: int = 1, config: str = "{}\n") -> Order:
    async def text(_: int) -> str:
        return config

    return Order(instance_id, "echo", operation_id, replicas, text, enrol, lambda replica: f"uid-{replica}")


@pytest.fixture
def instance_id() -> str:
    return str(uuid.uuid4())


async def answers(local: Local, instance_id: str) -> str:
    """Ask until every replica answers; what the last said. Bounded, for a test that would wait for ever."""
    async with asyncio.timeout(BOUND_S):
        while True:
            found = await local.probe(instance_id)
            if found and all(answer.ok for answer in found):
                return found[-1].detail
            await asyncio.sleep(0)
