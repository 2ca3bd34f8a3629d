"""
Our own gateway: enrols, keeps a session with the control plane, and applies what it is sent to its data plane.

Called by `mcpg-ctl gateway` (run_gateway) and by tests (run). It speaks mcpg.cp.v1 as contract/agent.md has it. The
wire is gateway_link.py; configs go to dataplane_config.py and dataplane.py; identity and the last known good config
live in credentials.py and lkg.py.

SIGTERM ends the session with a half-close and nothing else. There is no Deregister: a gateway that is restarted must
find its identity again, and one that is removed for good is told so on the control plane's side.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import platform
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from mcpg import __version__, errors
from mcpg.agent import credentials, enrolment_url, lkg
from mcpg.agent.credentials import Credentials
from mcpg.agent.dataplane import DataPlane
from mcpg.agent.dataplane_config import Config, compile_config, read_local_config
from mcpg.agent.gateway_link import Ended, Line, Link, Send, Timing, pause, unless
from mcpg.agent.pb import agent_pb2 as pb
from mcpg.settings import Agent

OnEvent = Callable[[str, dict[str, Any]], None]

MIN_REFRESH_S: Final = 300.0
MAX_WORDS: Final = 500
WARNINGS: Final = frozenset(
    {
        "config_refused",
        "credentials_rejected",
        "lkg_not_written",
        "lkg_unusable",
        "quarantined",
        "register_failed",
        "state_not_written",
    }
)


async def run(settings: Agent, *, stop: asyncio.Event, on_event: OnEvent, timing: Timing | None = None) -> None:
    """
    Is a gateway until *stop* is set. What happens is told to *on_event* (name, fields), never a secret.

    Raises errors.Usage (nothing to enrol with, bad flags or local config), errors.StateDir (directory in use, files not
    usable) and errors.Failed (address taken); once it listens, it never gives up.
    """
    with credentials.lock(settings.state_dir):
        await Gateway(settings, on_event=on_event, timing=timing or Timing()).run(stop)


def run_gateway(settings: Agent, *, json_logs: bool | None = None) -> int:
    """
    `mcpg-ctl gateway`: runs until SIGTERM or SIGINT and returns the exit code; 0 is a clean stop.

    Logs one line an event on stderr, as JSON where *json_logs* (None: as the settings say). Errors are printed there
    as well, in three lines (JSON: one), and become their exit code.
    """
    as_json = settings.json_logs if json_logs is None else json_logs
    try:
        asyncio.run(_until_signal(settings, as_json=as_json))
    except errors.McpgError as error:
        told = {"error": error.what, "cause": error.cause, "hint": error.hint}
        told = {name: _clean(text) for name, text in told.items() if text}
        if as_json:
            print(json.dumps({"code": error.code, **told}), file=sys.stderr)  # noqa: T201 - stderr is the log
        else:
            print("\n".join(f"{name}: {text}" for name, text in told.items()), file=sys.stderr)  # noqa: T201 - as above
        return errors.exit_code(error.code)
    return 0


async def _until_signal(settings: Agent, *, as_json: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    def log(name: str, fields: dict[str, Any]) -> None:
        # Whoever read our log may be gone; a gateway outlives that.
        with contextlib.suppress(OSError):
            print(log_line(name, fields, as_json=as_json), file=sys.stderr, flush=True)  # noqa: T201 - stderr is the log

    await run(settings, stop=stop, on_event=log)


def log_line(name: str, fields: dict[str, Any], *, as_json: bool) -> str:
    """One event as one line; text from elsewhere cannot break out of it."""
    head = {"at": credentials.now_rfc3339(), "level": "warning" if name in WARNINGS else "info", "event": name}
    if as_json:
        return json.dumps({**head, **fields})
    told = [
        f"{key}={json.dumps(value) if not isinstance(value, str) or ' ' in value or not value else value}"
        for key, value in fields.items()
    ]
    return _clean(" ".join([*head.values(), *told]), limit=2 * MAX_WORDS)


class Gateway:
    """One gateway's life in this process. The caller holds credentials.lock."""

    def __init__(self, settings: Agent, *, on_event: OnEvent, timing: Timing) -> None:
        self._settings = settings
        self._state_dir = settings.state_dir
        self._event = on_event
        self._timing = timing
        self._token = enrolment_url.parse(settings.enrollment_url) if settings.enrollment_url else None
        self._creds = credentials.read(self._state_dir)
        if self._creds is None and self._token is None:
            raise errors.Usage(
                "this gateway is not enrolled",
                cause=f"there are no credentials in {self._state_dir} and no enrolment URL was given",
                hint="pass --enrollment-url URL or set MCPG_ENROLLMENT_URL; POST …/enrollment-tokens mints one (README)",
            )
        # A flag or the environment, else where we were last, else the default.
        given = "cp_grpc" in settings.model_fields_set
        last = None if given else credentials.read_pairing(self._state_dir)
        self._link = Link(last or settings.cp_grpc, timing)
        self._local = read_local_config(settings.config)
        self._plane = DataPlane(self._local)
        self._uid = credentials.instance_uid(self._state_dir, wanted=settings.instance_uid, hostname=_hostname())
        # What is served and what is stored, each as (hash, bundle); None until there was a push or a stored config.
        self._active: tuple[str, bytes] | None = None
        self._stored: tuple[str, bytes] | None = None
        self._warnings: list[str] = []

    async def run(self, stop: asyncio.Event) -> None:
        """Serves, and keeps a session with the control plane, until *stop*."""
        self._load_boot_config()
        await self._plane.start()
        try:
            at = self._plane.listener
            self._event("listening", {"host": at.host, "port": at.port, "mcp_path": at.mcp_path})
            await self._keep_session(stop)
        finally:
            await self._plane.stop()
            self._event("stopped", {})

    async def _keep_session(self, stop: asyncio.Event) -> None:
        backoff = self._timing.backoff()
        while not stop.is_set():
            if self._token is not None and self._must_register():
                await self._enrol(self._token, stop)
            if self._creds is None or stop.is_set():
                return

            def opened(instance_id: str = self._creds.instance_id) -> None:
                backoff.opened()
                self._write(credentials.write_pairing, self._link.endpoint)
                self._event("session_opened", {"instance_id": instance_id, "endpoint": self._link.endpoint})

            lines = [Line(self._timing.status_s, self._status_report), Line(self._timing.heartbeat_s, self._heartbeat)]
            ended = await self._link.session(
                self._creds, stop, on_open=opened, on_message=self._on_message, lines=lines
            )
            if stop.is_set():
                return
            delay = backoff.closed(ok=ended.ok)
            self._event("session_ended", {**_told(ended), "retry_in_s": round(delay, 1)})
            if ended.rejected:
                self._reject()
            await pause(delay, stop)

    # ---- enrolment

    def _must_register(self) -> bool:
        if self._creds is None or self._creds.expires_at is None:
            return True
        window = max(MIN_REFRESH_S, 3 * self._timing.heartbeat_s)
        return self._creds.expires_at - time.time() <= window

    async def _enrol(self, token: str, stop: asyncio.Event) -> None:
        """Registers until it works or *stop*; once only where there are credentials, which may still do."""
        backoff = self._timing.backoff()
        while not stop.is_set():
            answer = await unless(stop, self._link.register(self._request(token)))
            if answer is None:
                return
            if isinstance(answer, pb.RegisterResponse):
                self._store(answer)
                return
            delay = backoff.closed(ok=False)
            self._event("register_failed", {**_told(answer), "retry_in_s": round(delay, 1)})
            if self._creds is not None:
                return
            await pause(delay, stop)

    def _request(self, token: str) -> pb.RegisterRequest:
        at = self._plane.listener
        reachable = [pb.AddressableEndpoint(scheme="http", host=at.host, port=at.port, path_prefix=at.mcp_path)]
        return pb.RegisterRequest(
            bootstrap_token=token,
            instance_uid=self._uid,
            version=__version__,
            labels={"agent": "mcpg-ctl"},
            capabilities=["control_plane_client"],
            addressable_endpoints=[] if at.host in {"0.0.0.0", "::"} else reachable,
            host=pb.HostInfo(
                os=sys.platform, arch=platform.machine(), hostname=_hostname(), kernel_version=platform.release()
            ),
        )

    def _store(self, answer: pb.RegisterResponse) -> None:
        self._creds = Credentials(
            instance_id=answer.instance_id,
            instance_jwt=answer.instance_jwt,
            cp_endpoint=answer.cp_endpoint,
            issued_at=credentials.now_rfc3339(),
            client_cert_pem=answer.client_cert_pem,
            client_key_pem=answer.client_key_pem,
            ca_chain_pem=answer.ca_chain_pem,
            payload_dek_b64=base64.b64encode(answer.payload_dek).decode(),
            payload_dek_version=answer.payload_dek_version,
        )
        self._write(credentials.write, self._creds)
        self._write(credentials.write_pairing, self._link.endpoint)
        self._write(credentials.record_registration, self._uid, self._creds.issued_at)
        told = {"instance_id": answer.instance_id, "instance_uid": self._uid, "endpoint": self._link.endpoint}
        self._event("registered", told)

    def _rotate(self, rotation: pb.CredentialRotation) -> None:
        if not rotation.instance_jwt or self._creds is None:
            return
        given: dict[str, Any] = {
            "client_cert_pem": rotation.client_cert_pem,
            "client_key_pem": rotation.client_key_pem,
            "payload_dek_b64": base64.b64encode(rotation.payload_dek).decode(),
            "payload_dek_version": rotation.payload_dek_version,
        }
        given = {name: value for name, value in given.items() if value}
        issued_at = credentials.now_rfc3339()
        self._creds = replace(self._creds, instance_jwt=rotation.instance_jwt, issued_at=issued_at, **given)
        self._write(credentials.write, self._creds)
        self._event("credentials_rotated", {"instance_id": self._creds.instance_id})

    def _reject(self) -> None:
        """The control plane refuses these credentials. Without a URL they are kept: nothing could replace them."""
        if self._token is None:
            hint = "start it again with --enrollment-url URL to enrol anew"
            self._event("credentials_rejected", {"kept": True, "hint": hint})
            return
        self._write(credentials.drop)
        self._creds = None
        self._event("credentials_rejected", {"kept": False})

    def _write(self, writer: Callable[..., None], *what: Any) -> None:
        """A state directory that can no longer be written (a full disk) is no reason to stop serving."""
        try:
            writer(self._state_dir, *what)
        except errors.StateDir as error:
            self._event("state_not_written", {"reason": _sentence(error)})

    # ---- what is said and heard in a session

    async def _on_message(self, message: pb.ServerMessage, send: Send) -> None:
        match message.WhichOneof("kind"):
            case "config_update":
                await send(pb.AgentMessage(config_ack=await self._apply(message.config_update)))
            case "credential_rotation":
                self._rotate(message.credential_rotation)
            case "quarantine":
                # It stops nothing here, as in the real gateway: the control plane cuts the session.
                self._event("quarantined", {"reason": _clean(message.quarantine.reason)})
            case "command":
                result = pb.CommandResult(command_id=message.command.command_id, error="commands are not supported")
                await send(pb.AgentMessage(command_result=result))
            case "diagnostic_request":
                asked = message.diagnostic_request.command_id
                answer = pb.DiagnosticResult(command_id=asked, error="diagnostics are not supported")
                await send(pb.AgentMessage(diagnostic_result=answer))
            case other:
                self._event("ignored", {"message": other or "empty"})

    def _heartbeat(self, seq: int) -> pb.AgentMessage:
        beat = pb.Heartbeat(
            seq=seq,
            health="ok",
            active_connections=self._plane.active_connections,
            cpu_load_avg=os.getloadavg()[0],
            memory_rss_bytes=_rss_bytes(),
        )
        beat.at.GetCurrentTime()
        return pb.AgentMessage(heartbeat=beat)

    def _status_report(self, _seq: int) -> pb.AgentMessage:
        # The hash of what is served. The real gateway says the last received, applied or not.
        report = pb.StatusReport(config_hash=self._active[0] if self._active else "", warnings=self._warnings)
        report.at.GetCurrentTime()
        return pb.AgentMessage(status_report=report)

    # ---- config

    async def _apply(self, update: pb.ConfigUpdate) -> pb.ConfigAck:
        """Applies *update* wholly or not at all, then stores it, and says which it was."""
        ack = pb.ConfigAck(config_hash=update.config_hash, applied_state="active")
        wanted = (update.config_hash, update.bundle.SerializeToString(deterministic=True))
        try:
            if wanted != self._active:  # it is pushed again on every connect
                # YAML in Python takes seconds for a megabyte; heartbeats and tools go on meanwhile.
                config = await asyncio.to_thread(_compile_update, update)
                self._serve(config, wanted)
                self._event("config_applied", {"config_hash": update.config_hash, "tools": len(config.tools)})
        except errors.BadConfig as error:
            prefix = "pushed config " if error.what.startswith("not utf8") else "hot-reload failed: "
            ack.applied_state, ack.error = "error", _clean(prefix + error.what)
            self._event("config_refused", {"config_hash": update.config_hash, "reason": ack.error})
        else:
            await self._keep(update, wanted)
        ack.applied_at.GetCurrentTime()
        return ack

    def _serve(self, config: Config, identity: tuple[str, bytes]) -> None:
        self._plane.apply(config)
        self._active = identity
        self._warnings = list(config.warnings)
        if config.sets_listener and config.listener != self._local.listener:
            self._warnings.append(
                "gateway.server is decided by the local config; what a push says there is not applied"
            )

    async def _keep(self, update: pb.ConfigUpdate, identity: tuple[str, bytes]) -> None:
        if identity == self._stored:
            return
        directory = credentials.agent_dir(self._state_dir)
        try:
            await asyncio.to_thread(lkg.write, directory, update.config_hash, update.bundle)
        except errors.StateDir as error:
            self._event("lkg_not_written", {"reason": _sentence(error)})
        else:
            self._stored = identity

    def _load_boot_config(self) -> None:
        """Until a push: the local config's tools; where it names none, the last known good config; else nothing."""
        if self._local.has_tools_section:
            self._event("config_loaded", {"source": "local", "tools": len(self._local.tools)})
            return
        try:
            good = lkg.read(credentials.agent_dir(self._state_dir))
            if good is None:
                return
            config = compile_config(good.bundle.config_toml)
        except (errors.StateDir, errors.BadConfig) as error:
            self._event("lkg_unusable", {"reason": _sentence(error)})
            return
        self._stored = (good.config_hash, good.bundle.SerializeToString(deterministic=True))
        self._serve(config, self._stored)
        told = {"source": "last known good", "tools": len(config.tools), "config_hash": good.config_hash}
        self._event("config_loaded", {**told, "written_at": good.written_at})


def _compile_update(update: pb.ConfigUpdate) -> Config:
    if not update.bundle.config_toml:
        raise errors.BadConfig("the update carries no whole config, so nothing was changed")
    if any(entry.enabled for entry in update.bundle.plugin_set.entries):
        raise errors.BadConfig("the plugin set has enabled plugins, and this gateway runs none")
    return compile_config(update.bundle.config_toml)


def _hostname() -> str:
    return socket.gethostname() or "localhost"


def _rss_bytes() -> int:
    """Resident memory of this process, from /proc; 0 where there is none."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def _told(ended: Ended) -> dict[str, Any]:
    return {"code": ended.code.name, "reason": _clean(ended.reason)}


def _sentence(error: errors.McpgError) -> str:
    return f"{error.what}: {error.cause}" if error.cause else error.what


def _clean(text: str, limit: int = MAX_WORDS) -> str:
    """Text from elsewhere, without what could move a terminal's cursor, and not endless."""
    return "".join(sign if sign.isprintable() else " " for sign in text[:limit])
