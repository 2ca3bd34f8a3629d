"""
Our own gateway: enrols, keeps a session with the control plane, and has its data plane serve what it is sent.

Called by mcpg/agent/process.py (`mcpg-ctl gateway`) and by tests (`run`). It speaks mcpg.cp.v1 as contract/agent.md has
it. The wire is gateway_link.py, who it is identity.py, what it serves plane.py or child.py, and the last known good
config lkg.py.

Told to stop, it drains: no new MCP sessions, running calls finish, then the session is half-closed and the control
plane is told (Deregister), so that it shows `departed` at once. Identity and credentials stay: the next start is the
same instance.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any, Final

from mcpg import errors
from mcpg.agent import credentials, lkg
from mcpg.agent.child import Child
from mcpg.agent.child_process import end_left
from mcpg.agent.events import Running, Tell, clean, told
from mcpg.agent.gateway_link import Line, Link, Send, Timing, pause
from mcpg.agent.identity import Identity, rss_bytes
from mcpg.agent.pb import agent_pb2 as pb
from mcpg.agent.plane import OwnPlane, Plane, read_local
from mcpg.host.binary import find_program, project_caches
from mcpg.settings import Agent

GOODBYE: Final = "graceful_shutdown"


async def run(settings: Agent, *, stop: asyncio.Event, on_event: Tell, timing: Timing | None = None) -> None:
    """
    Is a gateway until *stop* is set, then drains and says goodbye. Cancelled, it ends at once.

    What happens is told to *on_event* (name, fields), never a secret. Raises errors.Usage (nothing to enrol with, bad
    flags or local config), errors.StateDir (directory in use, files not usable), errors.Failed (address taken, a data
    plane that does not start) and errors.Forbidden (it may not enrol); what may pass is tried again for ever.
    """
    with credentials.lock(settings.state_dir):
        await Gateway(settings, on_event=on_event, timing=timing or Timing()).run(stop)


class Gateway:
    """One gateway's life in this process. The caller holds credentials.lock."""

    def __init__(self, settings: Agent, *, on_event: Tell, timing: Timing) -> None:
        self._settings = settings
        self._on_event = on_event
        self._timing = timing
        self._running: Running | None = None
        self._identity = Identity(settings, tell=self._tell, timing=timing)
        # A flag or the environment, else where we were last, else the default.
        given = "cp_grpc" in settings.model_fields_set
        last = None if given else credentials.read_pairing(settings.state_dir)
        self._link = Link(last or settings.cp_grpc, timing)
        self._plane = self._make_plane()
        # What is served and what is stored, each as (hash, bundle); None until there was a push or a stored config.
        self._active: tuple[str, bytes] | None = None
        self._stored: tuple[str, bytes] | None = None

    def _make_plane(self) -> Plane:
        settings = self._settings
        if not settings.exec:
            return OwnPlane(settings.config)
        gateway = find_program(settings.exec, project_caches())
        return Child(gateway, settings.state_dir, read_local(settings.config), tell=self._tell, timing=self._timing)

    def _tell(self, name: str, fields: dict[str, Any]) -> None:
        self._on_event(name, fields)
        if self._running is not None:
            self._running.note(name, fields)

    async def run(self, stop: asyncio.Event) -> None:
        """Serves, and keeps a session with the control plane, until *stop*."""
        hang_up = asyncio.Event()
        session = None
        self._running = Running(self._settings, self._link.endpoint, self._plane.facts)
        try:
            if (pid := await end_left(self._settings.state_dir)) is not None:
                self._tell("dataplane_replaced", {"pid": pid})
            await self._start_plane()
            session = asyncio.create_task(self._keep_session(hang_up))
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait({session, stopping}, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            if not session.done():
                self._tell("draining", {"at_most_s": self._settings.drain_timeout_s})
                await self._plane.drain(self._settings.drain_timeout_s)
            hang_up.set()
            await session
            await self._say_goodbye()
        finally:
            if session is not None:
                session.cancel()
                await asyncio.gather(session, return_exceptions=True)
            await self._plane.stop()
            self._tell("stopped", {})
            self._running.end()

    async def _say_goodbye(self) -> None:
        """Best effort: a control plane that is away finds out by our silence."""
        if self._identity.creds is None:
            return
        ended = await self._link.deregister(self._identity.creds, GOODBYE)
        self._tell("deregistered" if ended.ok else "deregister_failed", {} if ended.ok else told(ended))

    async def _keep_session(self, stop: asyncio.Event) -> None:
        backoff = self._timing.backoff()
        turned_away = 0
        while not stop.is_set():
            creds = await self._identity.ensure(self._link, self._plane.listener, stop)
            if creds is None or stop.is_set():
                return

            def opened(instance_id: str = creds.instance_id) -> None:
                backoff.opened()
                self._identity.reached(self._link.endpoint)
                self._tell("session_opened", {"instance_id": instance_id, "endpoint": self._link.endpoint})

            lines = [Line(self._timing.status_s, self._status_report), Line(self._timing.heartbeat_s, self._heartbeat)]
            ended = await self._link.session(creds, stop, on_open=opened, on_message=self._on_message, lines=lines)
            if stop.is_set():
                return
            delay = backoff.closed(ok=ended.ok)
            self._tell("session_ended", {**told(ended), "retry_in_s": round(delay, 1)})
            if ended.rejected:
                self._identity.reject()
            turned_away += ended.turned_away
            if ended.turned_away and turned_away > 1:  # once may have been a session of our own that hung
                hint = "for another gateway on this machine: --state-dir PATH"
                reason = "another gateway uses this identity, and each turns the other away"
                self._tell("identity_shared", {"reason": reason, "times": turned_away, "hint": hint})
            await pause(delay, stop)

    # ---- what is said and heard in a session

    async def _on_message(self, message: pb.ServerMessage, send: Send) -> None:
        match message.WhichOneof("kind"):
            case "config_update":
                await send(pb.AgentMessage(config_ack=await self._apply(message.config_update)))
            case "credential_rotation":
                self._identity.rotate(message.credential_rotation)
            case "quarantine":
                # It stops nothing here, as in the real gateway: the control plane cuts the session.
                self._tell("quarantined", {"reason": clean(message.quarantine.reason)})
            case "command":
                result = pb.CommandResult(command_id=message.command.command_id, error="commands are not supported")
                await send(pb.AgentMessage(command_result=result))
            case "diagnostic_request":
                asked = message.diagnostic_request.command_id
                answer = pb.DiagnosticResult(command_id=asked, error="diagnostics are not supported")
                await send(pb.AgentMessage(diagnostic_result=answer))
            case other:
                self._tell("ignored", {"message": other or "empty"})

    def _heartbeat(self, seq: int) -> pb.AgentMessage:
        beat = pb.Heartbeat(
            seq=seq,
            health="ok" if self._plane.is_up else "degraded",
            active_connections=self._plane.active_connections,
            cpu_load_avg=os.getloadavg()[0],
            memory_rss_bytes=rss_bytes(),
        )
        beat.at.GetCurrentTime()
        return pb.AgentMessage(heartbeat=beat)

    def _status_report(self, _seq: int) -> pb.AgentMessage:
        # The hash of what is served. The real gateway says the last received, applied or not.
        active = self._active[0] if self._active else ""
        report = pb.StatusReport(config_hash=active, warnings=self._plane.warnings)
        report.at.GetCurrentTime()
        if self._running is not None:
            self._running.seen()
        return pb.AgentMessage(status_report=report)

    # ---- config

    async def _apply(self, update: pb.ConfigUpdate) -> pb.ConfigAck:
        """Has *update* served wholly or not at all, then stores it, and says which it was."""
        ack = pb.ConfigAck(config_hash=update.config_hash, applied_state="active")
        wanted = _identity_of(update)
        try:
            if wanted != self._active or not self._plane.is_up:  # it is pushed again on every connect
                _check_whole(update)
                tools = await self._plane.serve(update)
                self._active = wanted
                self._tell("config_applied", {"config_hash": update.config_hash, "tools": tools})
        except (errors.BadConfig, errors.ConfigRejected) as error:
            ack.applied_state, ack.error = "error", clean(_why_not(error))
            self._tell("config_refused", {"config_hash": update.config_hash, "reason": ack.error})
        else:
            await self._keep(update, wanted)
        ack.applied_at.GetCurrentTime()
        return ack

    async def _keep(self, update: pb.ConfigUpdate, identity: tuple[str, bytes]) -> None:
        if identity == self._stored:
            return
        directory = credentials.agent_dir(self._settings.state_dir)
        try:
            await asyncio.to_thread(lkg.write, directory, update.config_hash, update.bundle)
        except errors.StateDir as error:
            self._tell("lkg_not_written", {"reason": _sentence(error)})
        else:
            self._stored = identity

    async def _start_plane(self) -> None:
        """Until a push: the local config's tools; where it names none, the last known good config; else nothing."""
        good = self._last_known_good() if self._plane.local_tools is None else None
        source: dict[str, Any] | None = {"source": "local", "tools": self._plane.local_tools}
        if good is None:
            await self._plane.start(None)
            source = source if self._plane.local_tools is not None else None
        else:
            update = pb.ConfigUpdate(config_hash=good.config_hash, bundle=good.bundle)
            try:
                tools = await self._plane.start(update)
            except (errors.BadConfig, errors.ConfigRejected) as error:
                self._tell("lkg_unusable", {"reason": _sentence(error)})
                await self._plane.start(None)
                source = None
            else:
                self._active = self._stored = _identity_of(update)
                told_of = {"config_hash": good.config_hash, "written_at": good.written_at}
                source = {"source": "last known good", "tools": tools, **told_of}
        if source is not None:
            self._tell("config_loaded", source)
        at = self._plane.listener
        self._tell("listening", {"host": at.host, "port": at.port, "mcp_path": at.mcp_path})

    def _last_known_good(self) -> lkg.LastKnownGood | None:
        try:
            return lkg.read(credentials.agent_dir(self._settings.state_dir))
        except errors.StateDir as error:
            self._tell("lkg_unusable", {"reason": _sentence(error)})
            return None


def _check_whole(update: pb.ConfigUpdate) -> None:
    if not update.bundle.config_toml:
        raise errors.BadConfig("the update carries no whole config, so nothing was changed")


def _identity_of(update: pb.ConfigUpdate) -> tuple[str, bytes]:
    return update.config_hash, update.bundle.SerializeToString(deterministic=True)


def _why_not(error: errors.McpgError) -> str:
    """The words of the ack, as the real gateway would begin them."""
    if isinstance(error, errors.ConfigRejected):
        return _sentence(error)
    return f"{'pushed config ' if error.what.startswith('not utf8') else 'hot-reload failed: '}{_sentence(error)}"


def _sentence(error: errors.McpgError) -> str:
    return f"{error.what}: {error.cause}" if error.cause else error.what
