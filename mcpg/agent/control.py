"""
The server side of mcpg.cp.v1: five calls made into what engine/agents.py understands.

Rules that gateways in the field impose (contract/agent.md, section 0): initial metadata at once, pings allowed, config
on every open, only UNAUTHENTICATED for credentials to throw away, an error status to turn one away, OK only at a
planned end.
"""

# ruff: noqa: N802 - the protocol names the calls

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any, NoReturn

import grpc
from google.protobuf.json_format import MessageToDict

from mcpg import faults
from mcpg.agent.follow import Follow
from mcpg.agent.pb import agent_pb2 as pb
from mcpg.agent.pb import agent_pb2_grpc
from mcpg.agent.sessions import Close, Session, Sessions
from mcpg.agent.tokens import LIFE_S, ROTATE_BELOW_S, Claims, InstanceTokens
from mcpg.engine.agents import Agents, Introduction
from mcpg.errors import MAPPING, Forbidden, McpgError, NotSignedIn, Unavailable
from mcpg.machines import enrolment
from mcpg.store import reads
from mcpg.store.clock import Clock
from mcpg.store.database import Database
from mcpg.store.journal import Line

log = logging.getLogger("mcpg.agent")

METADATA_KEY = "mcpg-instance-token"
MAX_MESSAGE = 4 * 1024 * 1024  # what the agent receives at most; and what we accept
MAX_TEXT = 4000  # characters kept of anything a gateway says in its own words
MAX_UID = 200
TOO_EARLY = "AppState not yet bound"  # the real gateway's words while it starts: no verdict on the config
TOO_EARLY_S = 0.1
MAX_HASH = 64

SERVER_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5000),  # agents ping every 20 s, also when idle
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.keepalive_time_ms", 30_000),  # and we ask too: a frozen gateway's stream must not look open for ever
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.so_reuseport", 0),  # a second server on the port must fail, not share it
]

Context = Any  # grpc.aio.ServicerContext: grpcio ships no types


async def _abort(context: Context, exc: McpgError) -> NoReturn:
    words = exc.what + (f": {exc.cause}" if exc.cause else "")
    await context.abort(getattr(grpc.StatusCode, MAPPING[exc.code].grpc), words)
    raise exc  # abort() has raised already


class AgentControl(agent_pb2_grpc.AgentControlServicer):
    def __init__(self, db: Database, agents: Agents, sessions: Sessions, tokens: InstanceTokens, clock: Clock) -> None:
        self._db = db
        self._agents = agents
        self._sessions = sessions
        self._tokens = tokens
        self._clock = clock
        self._follow = Follow(db, sessions)
        db.writer.listeners.add(self._heard, self._heard_of_others)

    def _heard(self, line: Line) -> None:
        """A quarantine holds at once: the stream is cut, and stays refused."""
        if line.machine == enrolment.MACHINE.name and line.dest == enrolment.State.QUARANTINED.value:
            self._sessions.quarantine(line.subject, line.seq, line.reason or "an operator said so")

    def stop(self) -> None:
        """Nothing that is heard is followed any more."""
        self._follow.stop()

    def _heard_of_others(self, line: Line) -> None:
        self._heard(line)
        self._follow.heard(line)

    # ---- enrolment

    async def Register(self, request: pb.RegisterRequest, context: Context) -> pb.RegisterResponse:
        who = Introduction(
            uid=_clean(request.instance_uid, MAX_UID),
            software=_clean(request.version, 80),
            host={k: _clean(v, 200) for k, v in MessageToDict(request.host, preserving_proto_field_name=True).items()},
        )
        faults.reach("agent:before:register")
        try:
            enrolled = await self._agents.register(request.bootstrap_token, who)
        except McpgError as exc:
            log.info("register of %s refused: %s", who.uid, exc.what)
            await _abort(context, exc)
        faults.reach("agent:after:register")
        token, expires = self._tokens.issue(enrolled.agent_id, enrolled.generation)
        answer = pb.RegisterResponse(instance_jwt=token, instance_id=enrolled.agent_id)
        answer.credentials_refresh_at.FromSeconds(expires - LIFE_S // 2)
        return answer

    async def Deregister(self, request: pb.DeregisterRequest, context: Context) -> pb.DeregisterResponse:
        who = await self._identify(context)
        if request.instance_id not in ("", who.agent_id):
            await _abort(context, Forbidden("a gateway deregisters itself only", cause="the credentials are another's"))
        await self._agents.deregistered(who.agent_id, _clean(request.reason))
        return pb.DeregisterResponse(acknowledged=True)

    # ---- the session

    # grpc.aio takes a coroutine that writes to the context as well as a generator; the generated types know the latter
    async def Channel(  # type: ignore[override]
        self, request_iterator: AsyncIterator[pb.AgentMessage], context: Context
    ) -> None:
        who = await self._identify(context)
        agent = await reads.find_agent(self._db, who.agent_id)
        if agent is None:
            await _abort(context, NotSignedIn("this gateway is not enrolled here any more"))
        session = Session(
            who.agent_id, agent["instance_id"], who.generation, who.expires_at, agent["replica"], is_held=True
        )
        session.version = agent["version"]
        await context.send_initial_metadata(())
        try:
            self._sessions.add(session)
        except McpgError as exc:
            await _abort(context, exc)
        try:
            faults.reach("session:before:open")
            try:
                await self._agents.opened(who.agent_id)
            except McpgError as exc:
                await _abort(context, exc)
            faults.reach("session:after:open")
            await self._agents.until_begun(session.instance_id, session.replica)
            session.is_held = False
            # The assigned config on every open: a gateway does not apply what it kept from last time.
            await self._sessions.push(session.instance_id)
            self._rotate_if_due(session)
            reader = asyncio.create_task(self._read(request_iterator, session))
            try:
                await self._write(session, context)
            finally:
                reader.cancel()
        finally:
            if self._sessions.remove(session):
                self._agents.closed(session.agent_id, session.instance_id)

    async def _write(self, session: Session, context: Context) -> None:
        while True:
            message = await session.outbox.get()
            if not isinstance(message, Close):
                await context.write(message)
            elif message.code is None:
                return
            else:
                await context.abort(message.code, message.words)

    async def _read(self, messages: AsyncIterator[pb.AgentMessage], session: Session) -> None:
        """
        Everything the gateway says. A message that cannot be dealt with is logged and does not end the session; bytes
        that are no message do, with an error: an OK would bring the gateway back without a pause.
        """
        end = Close()
        try:
            async for message in messages:
                try:
                    await self._take(message, session)
                except Unavailable as exc:  # not written down: let it connect again, be told again and say it again
                    end = Close(grpc.StatusCode.UNAVAILABLE, exc.what)
                    break
                except McpgError as exc:
                    log.warning(
                        "agent %s: %s not dealt with: %s", session.agent_id, message.WhichOneof("kind"), exc.what
                    )
                except Exception:
                    log.exception("agent %s: %s not dealt with", session.agent_id, message.WhichOneof("kind"))
        except asyncio.CancelledError:
            raise
        except Exception as exc:  # noqa: BLE001 - not a message, or the stream broke: then nobody hears it
            log.warning("agent %s: its stream cannot be read: %s", session.agent_id, _clean(str(exc), 200))
            end = Close(grpc.StatusCode.INVALID_ARGUMENT, "this is not a message of mcpg.cp.v1")
        session.outbox.put_nowait(end)

    async def _take(self, message: pb.AgentMessage, session: Session) -> None:
        match message.WhichOneof("kind"):
            case "heartbeat":
                session.counters.heartbeats += 1
                await self._agents.heard(session.agent_id)
                self._rotate_if_due(session)
            case "config_ack":
                ack = message.config_ack
                ok = ack.applied_state == "active"
                if not ok and TOO_EARLY in ack.error:
                    self._sessions.push_again(session, TOO_EARLY_S)
                    return
                faults.reach("config:before:ack")
                await self._agents.acked(
                    session.agent_id, _clean(ack.config_hash, MAX_HASH), ok=ok, words=_clean(ack.error)
                )
                faults.reach("config:after:ack")
            case "status_report":
                await self._agents.heard(session.agent_id)
                received = _clean(message.status_report.config_hash, MAX_HASH)
                if received != session.received_hash:
                    session.received_hash = received
                    await self._agents.reported(session.agent_id, session.received_hash)
            case "log_batch":
                session.counters.log_lines += len(message.log_batch.lines)
                session.counters.dropped += message.log_batch.dropped_overflow
            case "metrics_report":
                session.counters.tool_calls += len(message.metrics_report.invocations)
                session.counters.dropped += message.metrics_report.dropped_overflow
            case kind:
                log.debug("agent %s: %s ignored", session.agent_id, kind)

    def _rotate_if_due(self, session: Session) -> None:
        if session.expires_at - self._clock() // 1_000_000 > ROTATE_BELOW_S:
            return
        token, session.expires_at = self._tokens.issue(session.agent_id, session.generation)
        rotation = pb.CredentialRotation(instance_jwt=token)
        rotation.expires_at.FromSeconds(session.expires_at)
        session.outbox.put_nowait(pb.ServerMessage(credential_rotation=rotation))

    # ---- the unary way

    async def PullConfig(self, request: pb.PullConfigRequest, context: Context) -> pb.PullConfigResponse:
        config = await self._assigned((await self._identify(context)).agent_id)
        if config is None or config["rendered_sha256"] == request.current_config_hash:
            return pb.PullConfigResponse(changed=False)
        bundle = pb.ConfigBundle(schema_version=1, config_toml=config["rendered"].encode())
        return pb.PullConfigResponse(changed=True, bundle=bundle)

    async def Heartbeat(self, request: pb.HeartbeatRequest, context: Context) -> pb.HeartbeatResponse:
        who = await self._identify(context)
        await self._agents.heard(who.agent_id)
        config = await self._assigned(who.agent_id)
        expected = config["rendered_sha256"] if config else ""
        dirty = bool(expected) and expected != request.current_config_hash
        return pb.HeartbeatResponse(ok=True, config_dirty=dirty, expected_config_hash=expected)

    async def _assigned(self, agent_id: str) -> dict[str, Any] | None:
        agent = await reads.find_agent(self._db, agent_id)
        instance = await reads.find_instance(self._db, agent["instance_id"]) if agent else None
        if agent is None or instance is None:
            return None
        return (await reads.assigned_of(self._db, instance, [agent["replica"]])).get(agent["replica"])

    # ---- who calls

    async def _identify(self, context: Context) -> Claims:
        """
        The caller's claims, checked against its row; aborts the call otherwise.

        A quarantined agent is refused and keeps its credentials: they are good again when it is revived. A token of an
        older generation is a clone's while the newer one is connected (refused, keeps its credentials and backs off),
        and merely old when it is not (told to enrol again).
        """
        metadata = dict(context.invocation_metadata() or ())
        try:
            claims = self._tokens.read(str(metadata.get(METADATA_KEY, "")))
            agent = await reads.find_agent(self._db, claims.agent_id)
            instance = await reads.find_instance(self._db, agent["instance_id"]) if agent else None
            if agent is None or instance is None or instance["deleted_at"] is not None:
                raise NotSignedIn("this gateway is not enrolled here any more")
            if claims.generation < agent["generation"]:
                if self._sessions.is_connected(agent):
                    raise self._sessions.clone()
                raise NotSignedIn("these credentials were replaced by newer ones")
            if agent["state"] == enrolment.State.QUARANTINED.value:
                raise Forbidden("this gateway is quarantined", cause="an operator said so")
        except McpgError as exc:
            await _abort(context, exc)
        return claims


def _clean(words: str, most: int = MAX_TEXT) -> str:
    """A gateway's words, fit to be stored and shown: no control characters, at most *most* characters."""
    return "".join(c if c.isprintable() else " " for c in words[:most]).strip()


async def start(control: AgentControl, bind: str) -> tuple[grpc.aio.Server, int]:
    """A gRPC server on *bind* (HOST:PORT, 0 for any port) and the port it got. Raises RuntimeError when it is taken."""
    server = grpc.aio.server(options=SERVER_OPTIONS)
    agent_pb2_grpc.add_AgentControlServicer_to_server(control, server)
    port = server.add_insecure_port(bind)
    await server.start()
    return server, port
