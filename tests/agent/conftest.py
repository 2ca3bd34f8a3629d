"""Raw gRPC clients that play gateways, a provisioner made of paper, and a control plane whose clock the test turns."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import grpc
import pytest

from mcpg.agent import control
from mcpg.agent.pb import agent_pb2 as pb
from mcpg.agent.pb.agent_pb2_grpc import AgentControlStub
from mcpg.agent.sessions import Sessions
from mcpg.agent.tokens import InstanceTokens
from mcpg.engine.agents import Agents
from mcpg.engine.core import Scope
from mcpg.engine.loop import Engine
from mcpg.engine.ports import Answer, Exited, Order, Placed, Removed
from mcpg.engine.seed import seed
from mcpg.machines import enrolment
from mcpg.store import reads
from mcpg.store.database import Database
from mcpg.store.journal import Fire, Line, table_timeout
from tests.bounds import BOUND_S
from tests.conftest import Plane, StartPlane, running

HERE = Scope("default", "default", "default")


class Stream:
    """One Channel call: what the gateway's side of it can do and see."""

    def __init__(self, call: Any) -> None:
        self.call = call

    async def say(self, **kind: Any) -> None:
        await self.call.write(pb.AgentMessage(**kind))

    async def beat(self, seq: int = 1) -> None:
        await self.say(heartbeat=pb.Heartbeat(seq=seq, health="ok"))

    async def ack(self, config_hash: str, state: str = "active", error: str = "") -> None:
        await self.say(config_ack=pb.ConfigAck(config_hash=config_hash, applied_state=state, error=error))

    async def hear(self) -> pb.ServerMessage:
        """The next message. Raises EOFError at an OK end, grpc.aio.AioRpcError at another."""
        async with asyncio.timeout(BOUND_S):
            message = await self.call.read()
        if message is grpc.aio.EOF:
            raise EOFError
        assert isinstance(message, pb.ServerMessage)
        return message

    async def hear_config(self) -> pb.ConfigUpdate:
        message = await self.hear()
        assert message.WhichOneof("kind") == "config_update"
        return message.config_update

    async def end(self) -> grpc.StatusCode:
        """How the server ends it; what it says before that is dropped."""
        async with asyncio.timeout(BOUND_S):
            code: grpc.StatusCode = await self.call.code()
            return code

    async def half_close(self) -> None:
        await self.call.done_writing()


class Gateway:
    """A client of its own connection; `jwt` is what it last earned."""

    def __init__(self, target: str) -> None:
        self.channel = grpc.aio.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1)])
        self.stub: Any = AgentControlStub(self.channel)
        self.jwt = ""
        self.agent_id = ""

    @property
    def metadata(self) -> list[tuple[str, str]]:
        return [("mcpg-instance-token", self.jwt)]

    async def register(self, token: str, uid: str = "gw-1", **more: Any) -> pb.RegisterResponse:
        request = pb.RegisterRequest(bootstrap_token=token, instance_uid=uid, version="0.1.0-beta.48", **more)
        answer: pb.RegisterResponse = await self.stub.Register(request, timeout=BOUND_S)
        self.jwt, self.agent_id = answer.instance_jwt, answer.instance_id
        return answer

    def dial(self, **kwargs: Any) -> Stream:
        """Open a Channel without waiting for anything."""
        return Stream(self.stub.Channel(metadata=self.metadata, **kwargs))

    async def connect(self) -> Stream:
        """Open a Channel and wait for the response headers, as real gateways do before they speak."""
        stream = self.dial()
        async with asyncio.timeout(BOUND_S):
            await stream.call.initial_metadata()
        return stream

    async def call(self, method: str, request: Any) -> Any:
        return await getattr(self.stub, method)(request, metadata=self.metadata, timeout=BOUND_S)


async def status_of(call: Any) -> grpc.StatusCode:
    """The code a unary call fails with."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    return failed.value.code()


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database with the schema: copying it spares each test a third of a second of migrations."""
    path = tmp_path_factory.mktemp("migrated") / "cp-state.db"

    async def make() -> None:
        await (await Database.open(path)).close()

    maker = threading.Thread(target=lambda: asyncio.run(make()))  # not in the event loop of the test that comes first
    maker.start()
    maker.join()
    return path


@pytest.fixture
def start_plane(tmp_path: Path, migrated: Path) -> StartPlane:
    """As in tests/conftest.py, on a copy of `migrated`."""

    def start(**settings: Any) -> AbstractAsyncContextManager[Plane]:
        _copy(migrated, tmp_path / "state")
        return running(tmp_path / "state", **settings)

    return start


def _copy(migrated: Path, directory: Path) -> Path:
    directory.mkdir(mode=0o700, exist_ok=True)
    if not (directory / "cp-state.db").exists():
        shutil.copy(migrated, directory)
    return directory / "cp-state.db"


@pytest.fixture
async def gateway(plane: Plane) -> AsyncIterator[Callable[[], Gateway]]:
    """Makes gateways that dial `plane`; their connections are closed with the test."""
    async for make in _gateways(lambda: plane.grpc):
        yield make


async def _gateways(target: Callable[[], str]) -> AsyncIterator[Callable[..., Gateway]]:
    made: list[Gateway] = []

    def make(where: str = "") -> Gateway:
        made.append(Gateway(where or target()))
        return made[-1]

    yield make
    for one in made:
        await one.channel.close()


@pytest.fixture
async def dial() -> AsyncIterator[Callable[[str], Gateway]]:
    """Makes gateways that dial the address they are given."""
    async for make in _gateways(lambda: ""):
        yield make


async def mint(plane: Plane, **body: Any) -> str:
    """A new enrolment token, through the API."""
    answer = await plane.client.post(plane.tokens, json={"one_shot": True, "ttl_ms": 600, **body})
    assert answer.status_code == 201, answer.text
    token: str = answer.json()["token"]
    return token


async def the_agent(plane: Plane | Core, agent_id: str) -> dict[str, Any]:
    row = await reads.find_agent(plane.db, agent_id)
    assert row is not None
    return row


async def settled(plane: Plane | Core, agent_id: str, state: str) -> dict[str, Any]:
    """The agent's row, once it is in *state*."""

    async def look() -> dict[str, Any] | None:
        row = await the_agent(plane, agent_id)
        return row if row["state"] == state else None

    row: dict[str, Any] = await plane.until(look, f"agent {state}", BOUND_S)
    return row


async def ask_operator(
    plane: Plane | Core, agent_id: str, event: enrolment.Event, reason: str = "seen misbehaving"
) -> None:
    """Quarantine or revive; what a command of the operator will do."""
    await plane.db.writer.fire(
        Fire(enrolment.MACHINE, agent_id, event, "operator", reason=reason, sets={"reason": reason})
    )


class Paper:
    """A provisioner that starts nothing: it hands out the tokens, and the test plays the gateways."""

    name = "paper"
    gateway_version = "paper 1"
    observes = True

    def __init__(self) -> None:
        self.tokens: asyncio.Queue[tuple[str, str]] = asyncio.Queue()  # the uid to enrol with, and the token
        self.removed: list[str] = []
        self.on_remove: Callable[[], Any] = lambda: None
        self.on_exit: Callable[[Exited], None] = lambda _: None
        self.starting: set[int] = set()
        self._placed: dict[tuple[str, int], Placed] = {}

    async def start(self, on_exit: Callable[[Exited], None]) -> None:
        self.on_exit = on_exit

    async def reach(self) -> str:
        return ""

    async def apply(self, order: Order) -> tuple[Placed, ...]:
        for replica in range(1, order.replicas + 1):
            if (order.instance_id, replica) not in self._placed:
                self._placed[order.instance_id, replica] = Placed(replica, 1, 1, ("http://127.0.0.1:1/mcp",), True)
                url = await order.enrol(replica)
                self.tokens.put_nowait((order.uid_of(replica), url.partition("#token=")[2]))
        return tuple(p for (i, _), p in self._placed.items() if i == order.instance_id)

    async def probe(self, instance_id: str) -> tuple[Answer, ...]:
        return tuple(Answer(n, ok=True, detail="200") for i, n in self._placed if i == instance_id)

    def is_starting(self, instance_id: str, number: int) -> bool:
        return number in self.starting

    def dials(self, instance_id: str) -> dict[int, str]:
        return {}

    async def keep(self, instance_id: str, config: str) -> None: ...

    async def remove(self, instance_id: str) -> Removed:
        self.removed.append(instance_id)
        self._placed = {k: v for k, v in self._placed.items() if k[0] != instance_id}
        self.on_remove()
        return Removed((), "paper torn up")

    async def explain(self, config: str) -> str:
        return ""

    async def stop(self) -> None: ...


class Time:
    """A clock that moves when it is told to, and its timers. Begins now, for tokens are dated."""

    def __init__(self) -> None:
        self.now = time.time_ns() // 1000
        self._timers: list[tuple[int, int, _Timer]] = []
        self._numbers = itertools.count()

    def __call__(self) -> int:
        return self.now

    def later(self, seconds: float, call: Callable[[], None]) -> _Timer:
        timer = _Timer(call)
        heapq.heappush(self._timers, (self.now + round(seconds * 1e6), next(self._numbers), timer))
        return timer


class _Timer:
    def __init__(self, call: Callable[[], None]) -> None:
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        self.call = None


class Core:
    """Everything of a control plane that agents meet, on one database and one `Time`; without HTTP and provisioner."""

    def __init__(self, db: Database, clock: Time) -> None:
        self.db = db
        self.clock = clock
        self.engine = Engine(db, None, timeout=table_timeout, clock=clock)
        self.sessions = Sessions(db)
        self.engine.fleet = self.sessions
        self.engine.agents = Agents(self.engine, enrol_base=lambda: "http://cp", later=clock.later)
        self.engine.mint = self.engine.agents.mint_for_replica
        self.lines: list[Line] = []
        db.writer.listen(self.lines.append)

    async def open(self) -> None:
        tokens = await InstanceTokens.load(self.db, self.clock)
        servicer = control.AgentControl(self.db, self.engine.agents, self.sessions, tokens, self.clock)
        self.server, port = await control.start(servicer, "127.0.0.1:0")
        self.grpc = f"127.0.0.1:{port}"
        await self.engine.agents.start()

    async def close(self) -> None:
        self.sessions.close_all()
        await self.server.stop(grace=0.2)
        await self.engine.agents.stop()
        await self.engine.stop()
        await self.db.close()

    async def mint(self, ttl_s: int = 600, *, max_uses: int = 1, one_shot: bool = True) -> str:
        _, url = await self.engine.agents.mint(
            HERE, ttl_s=ttl_s, max_uses=max_uses, one_shot=one_shot, expected_uid=None, issuer="test"
        )
        return url.partition("#token=")[2]

    async def advance(self, seconds: float) -> None:
        """Let *seconds* pass: every timer that falls due rings at its moment, and what it began is written down."""
        clock, end = self.clock, self.clock.now + round(seconds * 1e6)
        while clock._timers and clock._timers[0][0] <= end:
            at, _, timer = heapq.heappop(clock._timers)
            if timer.call is not None:
                clock.now = max(clock.now, at)
                timer.call()
                await self.quiet()
        clock.now = end

    async def quiet(self) -> None:
        """Whatever is beside the main path has run and is committed."""
        while self.engine._side:
            await asyncio.wait(self.engine._side)
        await self.db.writer.execute()

    until = Plane.until


@pytest.fixture
async def cores(tmp_path: Path, migrated: Path) -> AsyncIterator[Callable[..., Any]]:
    """`await cores()`: the control plane of this test's database; called again, it is one that was restarted."""
    open_ones: list[Core] = []
    clock = Time()

    async def start() -> Core:
        for one in open_ones:
            await one.close()
        open_ones.clear()
        db = await Database.open(_copy(migrated, tmp_path / "state"), clock=clock)
        core = Core(db, clock)
        open_ones.append(core)
        await seed(db, clock, local_gateways_max=20)
        await core.open()
        return core

    yield start
    for one in open_ones:
        await one.close()


@pytest.fixture
async def core(cores: Callable[..., Any]) -> Core:
    started: Core = await cores()
    return started
