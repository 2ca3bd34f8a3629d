"""The open channels of this process, by agent; and what the engine may ask of them (engine/ports.py, Fleet)."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc

from mcpg import faults
from mcpg.agent.pb import agent_pb2 as pb
from mcpg.errors import Forbidden
from mcpg.store import reads, writes
from mcpg.store.database import Database


@dataclass(frozen=True, slots=True)
class Close:
    """Put into an outbox, ends the channel: with OK, or with an error *code* and its words."""

    code: grpc.StatusCode | None = None
    words: str = ""


@dataclass(slots=True)
class Counters:
    """What a session sent since it opened."""

    heartbeats: int = 0
    log_lines: int = 0
    tool_calls: int = 0
    dropped: int = 0


@dataclass(slots=True, eq=False)
class Session:
    """
    One open channel. `pushed_hash` is the config it was last sent on this channel, `pushed_by` the push that did; `version`
    is the agent's when the channel opened. While `is_held` it is sent no config.
    """

    agent_id: str
    instance_id: str
    generation: int
    expires_at: int
    replica: int = 1
    outbox: asyncio.Queue[pb.ServerMessage | Close] = field(default_factory=asyncio.Queue)
    counters: Counters = field(default_factory=Counters)
    pushed_hash: str = ""
    pushed_by: int = 0
    received_hash: str = ""
    version: int = 0
    is_held: bool = False


def config_update(config_hash: str, rendered: str) -> pb.ServerMessage:
    bundle = pb.ConfigBundle(schema_version=1, config_toml=rendered.encode())
    return pb.ServerMessage(
        config_update=pb.ConfigUpdate(config_hash=config_hash, bundle=bundle, mode=pb.ApplyMode.HOT_RELOAD)
    )


class Sessions:
    """
    Implements Fleet. At most one session an agent; the newest wins among equals, an older generation never.

    `epoch` is this start's, and `is_living` says of another's whether that control plane lives: its channels count too.
    """

    def __init__(self, db: Database, epoch: str = "", is_living: Callable[[str], bool] = lambda _: False) -> None:
        self._db = db
        self._epoch = epoch
        self._is_living = is_living
        self._again: set[asyncio.Task[None]] = set()
        self._by_agent: dict[str, Session] = {}
        self._by_instance: dict[str, set[Session]] = {}
        self._pushes = itertools.count(1)
        self.clones_refused = 0

    def add(self, session: Session) -> None:
        """
        Register *session*; an older one of the same agent is turned away with an error (so that it backs off).

        Raises Forbidden when that one has newer credentials.
        """
        old = self._by_agent.get(session.agent_id)
        if old is not None and old.generation > session.generation:
            raise self.clone()
        if old is not None:
            self._forget(old)
            old.outbox.put_nowait(Close(grpc.StatusCode.ABORTED, "the same gateway connected again"))
        self._by_agent[session.agent_id] = session
        self._by_instance.setdefault(session.instance_id, set()).add(session)

    def clone(self) -> Forbidden:
        """The refusal of an agent whose identity is connected with newer credentials; counted."""
        self.clones_refused += 1
        return Forbidden("another gateway with this identity is connected", cause="its credentials are newer")

    def remove(self, session: Session) -> bool:
        """False when a newer session of the same agent had replaced it."""
        if self._by_agent.get(session.agent_id) is not session:
            return False
        self._forget(session)
        return True

    def _forget(self, session: Session) -> None:
        del self._by_agent[session.agent_id]
        peers = self._by_instance[session.instance_id]
        peers.discard(session)
        if not peers:
            del self._by_instance[session.instance_id]

    def of(self, agent_id: str) -> Session | None:
        return self._by_agent.get(agent_id)

    def __len__(self) -> int:
        return len(self._by_agent)

    # ---- Fleet

    def holds(self, instance_id: str) -> bool:
        """Whether a channel of its agents is open here."""
        return instance_id in self._by_instance

    async def connected(self, instance_id: str) -> int:
        here = self._by_instance.get(instance_id, ())
        agents = await reads.agents(self._db, instance_id)
        return len(here) + sum(self._is_elsewhere(a) for a in agents if a["id"] not in self._by_agent)

    def is_live(self, agent_id: str) -> bool:
        return agent_id in self._by_agent

    def is_connected(self, agent: Mapping[str, Any]) -> bool:
        return agent["id"] in self._by_agent or self._is_elsewhere(agent)

    def _is_elsewhere(self, agent: Mapping[str, Any]) -> bool:
        epoch = agent["session_epoch"]
        return epoch is not None and epoch != self._epoch and self._is_living(epoch)

    async def settle(self) -> None:
        """What a write that was lost, or a gateway that connected to another replica, left behind."""
        rows = set(await reads.agents_held_by(self._db, self._epoch))
        closed = [writes.session_closed(a, self._epoch) for a in rows if a not in self._by_agent]
        for agent_id in [a for a in self._by_agent if a not in rows]:
            agent = await reads.find_agent(self._db, agent_id)
            session = self._by_agent.get(agent_id)
            if agent is None or session is None:
                continue
            if self._is_elsewhere(agent):
                session.outbox.put_nowait(
                    Close(grpc.StatusCode.ABORTED, "the same gateway connected to another replica")
                )
            elif agent["session_epoch"] != self._epoch:
                closed.append(writes.session_opened(agent_id, self._epoch))
        if closed:
            await self._db.writer.execute(*closed)

    async def push(self, instance_id: str) -> int:
        """
        See Fleet; each replica is sent what is assigned to it. What a push has read may be old when it comes to send: a
        later push's word stands.
        """
        if instance_id not in self._by_instance:
            return 0
        mine = next(self._pushes)
        instance = await reads.find_instance(self._db, instance_id)
        if instance is None:
            return 0
        known = {session.replica for session in self._by_instance.get(instance_id, ())}
        configs = await reads.assigned_of(self._db, instance, known)
        faults.reach("config:before:push")
        sent = 0
        for session in self._by_instance.get(instance_id, set()):
            config = configs.get(session.replica)
            if session.pushed_by > mine or config is None or session.is_held:
                continue
            session.pushed_by = mine
            if session.pushed_hash != config["rendered_sha256"]:
                session.pushed_hash = config["rendered_sha256"]
                session.outbox.put_nowait(config_update(config["rendered_sha256"], config["rendered"]))
                sent += 1
        faults.reach("config:after:push")
        return sent

    def push_again(self, session: Session, delay_s: float) -> None:
        """The gateway could not look at what it was sent: it is sent once more, if the session lasts."""

        async def push() -> None:
            await asyncio.sleep(delay_s)
            session.pushed_hash = ""
            await self.push(session.instance_id)

        task = asyncio.get_running_loop().create_task(push())
        self._again.add(task)
        task.add_done_callback(self._again.discard)

    async def drain(self, instance_id: str) -> int:
        sessions = self._by_instance.get(instance_id, set())
        for session in sessions:
            request = pb.DrainRequest()
            request.grace.FromSeconds(5)
            session.outbox.put_nowait(pb.ServerMessage(command=pb.Command(command_id="drain", drain=request)))
        return len(sessions)

    def quarantine(self, agent_id: str, seq: int, reason: str) -> None:
        """
        Cut the agent's channel, if it has one; it keeps its credentials. A channel that opened behind that line, its *seq*,
        stays: it was revived, and the line is another replica's that the feed brings late.
        """
        session = self._by_agent.get(agent_id)
        if session is not None and seq > session.version:
            session.outbox.put_nowait(pb.ServerMessage(quarantine=pb.Quarantine(reason=reason)))
            session.outbox.put_nowait(
                Close(grpc.StatusCode.PERMISSION_DENIED, f"this gateway is quarantined: {reason}")
            )

    def cut(self, instance_id: str, words: str) -> None:
        for session in self._by_instance.get(instance_id, set()):
            session.outbox.put_nowait(Close(grpc.StatusCode.PERMISSION_DENIED, words))

    def close_all(self) -> None:
        """The control plane stops as planned: an OK end resets the gateways' backoff."""
        for task in self._again:
            task.cancel()
        for session in list(self._by_agent.values()):
            session.outbox.put_nowait(Close())
