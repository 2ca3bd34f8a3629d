"""Replicas played inside the process: real enrolment, real sessions, real pushes, and gateways that do what a test says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mcpg.agent.pb import agent_pb2 as pb
from mcpg.agent.sessions import Close, Session
from mcpg.engine.agents import Introduction
from mcpg.engine.ports import Answer, Exited, Order, Placed, Removed
from tests.engine.fakes import Scripted

if TYPE_CHECKING:
    from tests.conftest import Plane


@dataclass
class Player:
    """One replica that runs: what it boots with, and the config it serves."""

    number: int
    session: Session
    task: asyncio.Task[None] | None = None
    active: str = ""
    told: list[str] = field(default_factory=list)


class Staged(Scripted):
    """
    Observes what it plays. `refuses` says of a replica and a config whether the gateway refuses it, `silent` holds replicas
    that acknowledge nothing, `deaf` those whose endpoint does not answer, `doomed` those that end as soon as they start.
    `log` is what happened to the replicas, in order: ("start", 1), ("sent", 2), ("end", 3). `watch` hears each.
    """

    name = "staged"
    observes = True

    def __init__(self) -> None:
        super().__init__()
        self.plane: Plane
        self.players: dict[str, dict[int, Player]] = {}
        self.refuses: Callable[[int, str], bool] = lambda _, __: False
        self.silent: set[int] = set()
        self.deaf: set[int] = set()
        self.doomed: set[int] = set()
        self.log: list[tuple[str, int]] = []
        self.watch: Callable[[str, int], None] = lambda _, __: None
        self.hold_start: asyncio.Event | None = None
        self._pids = 1000

    def happened(self, what: str, number: int) -> None:
        self.log.append((what, number))
        self.watch(what, number)

    async def apply(self, order: Order) -> tuple[Placed, ...]:
        self.orders.append(order)
        self.entered.set()
        if self.problems:
            raise self.problems.pop(0)
        here = self.players.setdefault(order.instance_id, {})
        started = set()
        for number in range(1, order.replicas + 1):
            if number not in here and (order.only is None or number in order.only):
                await self._start(order, number)
                started.add(number)
        for number in [n for n in here if n > order.replicas and order.stops]:
            await self._end(order.instance_id, number)
            if self.hold is not None:
                await self.hold.wait()
        return tuple(
            Placed(n, 1, 2000 + n, (f"http://127.0.0.1:{2000 + n}/mcp",), n in started)
            for n in sorted(here)
            if n <= order.replicas
        )

    async def _start(self, order: Order, number: int) -> None:
        if self.hold_start is not None:
            await self.hold_start.wait()
        self.happened("start", number)
        if number in self.doomed:
            self._pids += 1
            self.on_exit(Exited(order.instance_id, number, self._pids, "exit code 3", "doomed"))
            return
        engine = self.plane.engine
        token = (await order.enrol(number)).partition("#token=")[2]
        enrolled = await engine.agents.register(token, Introduction(order.uid_of(number), "staged 1", {}))
        await self._connect(order.instance_id, number, enrolled.agent_id)

    async def _connect(self, instance_id: str, number: int, agent_id: str) -> None:
        engine, sessions = self.plane.engine, self.plane.control.sessions
        session = Session(agent_id, instance_id, 1, 2**40, number)
        sessions.add(session)
        player = self.players[instance_id][number] = Player(number, session)
        player.task = asyncio.create_task(self._play(player))
        await engine.agents.opened(agent_id)
        await sessions.push(instance_id)

    async def _play(self, player: Player) -> None:
        agents = self.plane.engine.agents
        while True:
            message = await player.session.outbox.get()
            if isinstance(message, Close):
                return
            if message.WhichOneof("kind") != "config_update":
                continue
            update: pb.ConfigUpdate = message.config_update
            text = update.bundle.config_toml.decode()
            player.told.append(text)
            self.happened("sent", player.number)
            if player.number in self.silent:
                continue
            ok = not self.refuses(player.number, text)
            player.active = text if ok else player.active
            words = "" if ok else "this config is refused"
            await agents.acked(player.session.agent_id, update.config_hash, ok=ok, words=words)

    async def _end(self, instance_id: str, number: int) -> None:
        player = self.players[instance_id].pop(number)
        assert player.task is not None
        player.task.cancel()
        self.plane.control.sessions.remove(player.session)
        self.plane.engine.agents.closed(player.session.agent_id, instance_id)
        self.happened("end", number)

    async def dies(self, instance_id: str, number: int, reason: str = "signal 9") -> None:
        """Its process ends by itself."""
        await self._end(instance_id, number)
        self._pids += 1
        self.on_exit(Exited(instance_id, number, self._pids, reason, ""))

    async def probe(self, instance_id: str) -> tuple[Answer, ...]:
        return tuple(
            Answer(n, ok=n not in self.deaf, detail="no answer" if n in self.deaf else "GET /health: 200", ms=1.0)
            for n in sorted(self.players.get(instance_id, {}))
        )

    async def alive(self, instance_id: str) -> frozenset[int] | None:
        return frozenset(self.players[instance_id]) if instance_id in self.players else None

    async def remove(self, instance_id: str) -> Removed:
        for number in list(self.players.get(instance_id, {})):
            await self._end(instance_id, number)
        self.players.pop(instance_id, None)
        self.removed.append(instance_id)
        return Removed((), "removed")

    async def stop(self) -> None:
        for here in self.players.values():
            for player in here.values():
                if player.task is not None:
                    player.task.cancel()

    def serving(self, instance_id: str) -> dict[int, str]:
        """The config each replica runs."""
        return {n: p.active for n, p in self.players.get(instance_id, {}).items()}
