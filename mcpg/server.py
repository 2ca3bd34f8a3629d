"""
The control plane as one process: builds the parts, runs Sanic and grpc.aio in one event loop, and drains them on SIGTERM.

The composition root: the only module that knows every layer. Called by mcpg/cli/local.py (`run`), and by the tests and
benchmarks (`ControlPlane`, as an async context manager on port 0).
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc

from mcpg import __version__, faults, logs
from mcpg.agent import control
from mcpg.agent.sessions import Sessions
from mcpg.agent.tokens import InstanceTokens
from mcpg.api.app import App, build
from mcpg.api.context import Server as ApiParts
from mcpg.api.context import host_of
from mcpg.engine import sizes
from mcpg.engine.agents import Agents
from mcpg.engine.audit import stranded
from mcpg.engine.core import new_epoch
from mcpg.engine.loop import Engine
from mcpg.engine.ports import Provisioner
from mcpg.engine.seed import seed
from mcpg.errors import McpgError, Usage
from mcpg.host.boxes import this_machine
from mcpg.machines import TABLES, provision, recovery
from mcpg.machines.table import Table
from mcpg.present import Live
from mcpg.provisioners.local import Local
from mcpg.provisioners.noop import Noop
from mcpg.settings import Server as Settings
from mcpg.store import lease
from mcpg.store.clock import now_us, to_datetime
from mcpg.store.database import Database, locate, prepare_directory
from mcpg.store.journal import Timeout, table_timeout
from mcpg.store.lease import Myself
from mcpg.store.lock import FileLock, Lock, StateLock
from mcpg.ui import page
from mcpg.wire.base import rfc3339
from mcpg.wire.fleet import Meta

log = logging.getLogger("mcpg.server")

DRAIN_S = 0.5  # SIGTERM to the end of the last stream; what runs on gateways is not touched by it


@dataclass(frozen=True, slots=True)
class Started:
    """What runs, for a banner and for `<state-dir>/server.json`. `gateway_path` is "" for our own agent, None without any."""

    bind: str
    http_url: str
    grpc_url: str
    external_url: str
    state_dir: str
    db_path: str
    replica: str
    version: str
    auth_mode: str
    provisioner: str
    gateway: str
    gateway_path: str | None
    pid: int
    start_ticks: int
    started_at: str


def split_bind(value: str, name: str) -> tuple[str, int]:
    """HOST:PORT as a pair; `[::1]:7843` for IPv6. Raises Usage."""
    host, colon, port = value.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise Usage(f"{name} {value!r} is not HOST:PORT", hint=f"e.g. {name} 127.0.0.1:7843")
    return host.strip("[]"), int(port)


def listen(host: str, port: int, name: str) -> socket.socket:
    """A bound TCP socket, or a Usage-free refusal that says who is in the way as far as the kernel does."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # named, or asyncio leaves Nagle on
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as exc:
        sock.close()
        raise port_taken(host, port, name, exc.strerror or str(exc)) from exc
    return sock


def port_taken(host: str, port: int, name: str, why: str) -> McpgError:
    return McpgError(
        f"{name} cannot listen on {host}:{port}", cause=why, hint=f"choose another: {name} {host}:PORT", host=host,
        port=port, flag=name,
    )  # fmt: skip


def start_ticks(pid: int) -> int:
    """When a process started, in clock ticks since boot; 0 where /proc has no answer. With the pid it names a process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    return int(stat[stat.rindex(")") + 2 :].split()[19])


def timeouts(settings: Settings) -> Timeout:
    """The definitions' deadlines, with those that the settings may change."""
    changed = {
        (provision.MACHINE.name, provision.State.APPLYING.value): settings.apply_timeout_s,
        (provision.MACHINE.name, provision.State.CONFIRMING.value): settings.confirm_timeout_s,
        (recovery.MACHINE.name, recovery.State.CONFIRMING.value): settings.confirm_timeout_s,
        (recovery.MACHINE.name, recovery.State.WATCHING.value): settings.recovery_soak_s,
        (recovery.MACHINE.name, recovery.State.WAITING.value): settings.recovery_pause_s,
    }

    def timeout(table: Table, state: str) -> float | None:
        return changed[table.name, state] if (table.name, state) in changed else table_timeout(table, state)

    return timeout


class ControlPlane:
    """
    A running control plane, as an async context manager. Ports given as 0 come from the kernel; `started` says which.

    `provisioner` and `timeout` replace what the settings say (tests bring their own). `shared`: whether other control planes
    may work on the same database at the same time; None: as the database is made for.
    """

    started: Started
    engine: Engine
    db: Database

    def __init__(
        self, settings: Settings, *, provisioner: Provisioner | None = None, timeout: Timeout | None = None,
        shared: bool | None = None,
    ) -> None:  # fmt: skip
        self._settings = settings
        self._timeout = timeout or timeouts(settings)
        self._shared = shared
        self._given = provisioner
        self._undo: list[Callable[[], Any]] = []
        self._parts: ApiParts
        self._app: App
        self._http: Any = None
        self._grpc: grpc.aio.Server | None = None
        self.sessions: Sessions

    async def __aenter__(self) -> ControlPlane:
        try:
            await self._start()
        except BaseException:
            await self._unwind()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._parts.stopping = True
        await self._unwind()

    async def _unwind(self) -> None:
        """Take back what was started, newest first; one failure does not keep the rest running."""
        while self._undo:
            try:
                done = self._undo.pop()()
                if asyncio.iscoroutine(done):
                    await done
            except Exception:
                log.exception("stopping: one part did not stop cleanly")

    async def _start(self) -> None:
        s = self._settings
        http_host, http_port = split_bind(s.bind_http, "--bind-http")
        grpc_host, grpc_port = split_bind(s.bind_grpc, "--bind-grpc")
        prepare_directory(s.state_dir)
        where = locate(s.db_url, s.state_dir)
        locks: list[Lock] = [StateLock(s.state_dir)]
        if isinstance(where, Path) and not self._shared:
            prepare_directory(where.parent)
            locks.append(FileLock(where))
        for lock in locks:
            lock.take()
            self._undo.append(lock.release)

        sock = listen(http_host, http_port, "--bind-http")
        self._undo.append(sock.close)
        http_port = sock.getsockname()[1]
        http_url = f"http://{_url_host(http_host)}:{http_port}"
        external = s.external_url.rstrip("/") or http_url
        timeout = self._timeout
        self.db = await Database.open(where, timeout=timeout)
        self._undo.append(self.db.close)
        await seed(self.db, now_us, local_gateways_max=s.local_gateways_max)
        for machine, state, number in await stranded(self.db):
            log.warning(
                "%d row(s) of %s rest in %s, from where this version knows no way on: nothing here moves them; run the version"
                " that wrote them again, or look: mcpg-ctl operation explain ID", number, machine, state,
            )  # fmt: skip

        tokens = await InstanceTokens.load(self.db, now_us)
        grpc_port = await self._reserve_grpc(grpc_host, grpc_port)
        grpc_url = s.external_grpc_url.rstrip("/") or f"http://{_url_host(grpc_host)}:{grpc_port}"
        shared = self.db.shared if self._shared is None else self._shared
        provisioner = self._given or self._provisioner(grpc_url, is_shared=shared)
        me = Myself(
            lease.replica_id(s.state_dir), new_epoch(), socket.gethostname(), os.getpid(), __version__, external, grpc_url,
            provisioner.name if provisioner is not None else "none", this_machine(),
            str(provisioner.directory) if isinstance(provisioner, Local) else "",
        )  # fmt: skip
        self.engine = Engine(
            self.db, provisioner, timeout=timeout, sizes=sizes.parse(s.size_classes), me=me, shared=shared
        )
        if isinstance(provisioner, Local):
            provisioner.serves = self.engine.leases.serves
        self.engine.leases.renamed = lambda replica: lease.keep_replica_id(s.state_dir, replica)
        self.sessions = Sessions(self.db, self.engine.epoch, self.engine.leases.is_living)
        self.engine.fleet = self.sessions
        self.engine.agents = Agents(self.engine, enrol_base=lambda: external)
        self.engine.mint = self.engine.agents.mint_for_replica

        if shared:
            self._undo.append(self.engine.feed.stop)
            await self.engine.feed.start()
        self._undo.append(self.engine.agents.stop)
        await self.engine.agents.start()
        self._undo.append(self.engine.stop)
        await self.engine.start()

        servicer = control.AgentControl(self.db, self.engine.agents, self.sessions, tokens, now_us)
        try:
            self._grpc, bound = await control.start(servicer, f"{_bind_host(grpc_host)}:{grpc_port}")
        except RuntimeError as exc:
            raise port_taken(grpc_host, grpc_port, "--bind-grpc", "the address is in use") from exc
        assert bound == grpc_port  # noqa: S101 - we reserved it a moment ago
        self._undo.append(self._stop_grpc)
        self._undo.append(servicer.stop)

        began = now_us()
        self.started = Started(
            bind=s.bind_http,
            http_url=http_url, grpc_url=grpc_url, external_url=external, state_dir=str(s.state_dir),
            db_path=self.db.shown, replica=self.engine.epoch, version=__version__, auth_mode=s.auth_mode,
            provisioner=self.engine.provisioner_name,
            gateway=provisioner.gateway_version if provisioner is not None else "none",
            gateway_path=provisioner.gateway_path if isinstance(provisioner, Local) else None, pid=os.getpid(),
            start_ticks=start_ticks(os.getpid()), started_at=rfc3339(datetime.now(UTC)),
        )  # fmt: skip
        meta = Meta(
            version=__version__, replica=self.engine.epoch, auth_mode=s.auth_mode, external_url=external,
            grpc_endpoint=grpc_url, provisioner=self.engine.provisioner_name, state_dir=str(s.state_dir),
            pid=os.getpid(), started_at=to_datetime(began), schema_version=self.db.schema_version,
        )  # fmt: skip
        local = {"127.0.0.1", "localhost", "::1", http_host, host_of(external)}
        allowed = None if s.insecure_no_auth else frozenset(local)
        live = Live(
            self.sessions.is_connected, self.engine.agents.last_heard, self.engine.reach.seen_at, self.sessions.__len__
        )
        self._parts = ApiParts(self.db, self.engine, live, meta, allowed)
        os.environ.setdefault("SANIC_IGNORE_PRODUCTION_WARNING", "1")  # it would advise a person to debug Sanic
        self._app = build(self._parts)
        self._app.blueprint(page.blueprint(self.db, live, meta))
        self._http = await self._app.create_server(sock=sock, return_asyncio_server=True, access_log=False)
        self._undo.append(self._stop_http)
        await self._http.startup()
        await self._http.before_start()
        await self._http.start_serving()
        await self._http.after_start()

        card = s.state_dir / "server.json"
        _write_card(card, self.started)
        self._undo.append(lambda: card.unlink(missing_ok=True))
        for lock in locks:
            lock.say(f"pid {os.getpid()}, {http_url}, since {self.started.started_at}")

    async def _reserve_grpc(self, host: str, port: int) -> int:
        """The gRPC port, known before the server runs: gateways' boot files need it. 0 is asked of the kernel."""
        with listen(host, port, "--bind-grpc") as probe:
            found: int = probe.getsockname()[1]
            return found

    def _provisioner(self, grpc_url: str, *, is_shared: bool) -> Provisioner | None:
        s = self._settings
        match s.provisioner:
            case "none":
                return None
            case "noop":
                return Noop()
            case "local":
                return Local(
                    gateways_dir=Path(s.gateways_dir).expanduser().absolute()
                    if s.gateways_dir
                    else s.state_dir / "gateways",
                    grpc_url=grpc_url, gateway_bin=s.gateway_bin, stop_grace_s=s.stop_grace_s,
                    is_shared=is_shared or bool(s.gateways_dir),
                )  # fmt: skip

    async def _stop_http(self) -> None:
        """No new connections; open streams end with us (viewers resume by Last-Event-ID)."""
        self._http.close()
        for connection in list(self._http.connections):
            connection.close_if_idle() or connection.abort()
        await self._http.before_stop()
        await self._http.after_stop()

    async def _stop_grpc(self) -> None:
        assert self._grpc is not None  # noqa: S101 - started
        self.sessions.close_all()
        await self._grpc.stop(grace=DRAIN_S)


def _url_host(host: str) -> str:
    """A host as clients on this machine reach it."""
    if host in ("0.0.0.0", "::"):
        return "127.0.0.1"
    return _bind_host(host)


def _bind_host(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _write_card(path: Path, started: Started) -> None:
    temporary = path.with_suffix(".tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(asdict(started), file, indent=2)
    temporary.replace(path)


async def _serve(settings: Settings, on_ready: Callable[[Started], None]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with ControlPlane(settings) as plane:
        log.info("ready on %s (gRPC %s), state in %s", *_where(plane.started))
        on_ready(plane.started)
        await stop.wait()
        log.info("stopping")
    for number in (signal.SIGTERM, signal.SIGINT):  # all is closed: a second signal must not spoil the exit code
        loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_IGN)


def _where(started: Started) -> tuple[str, str, str]:
    return started.http_url, started.grpc_url, started.state_dir


def run(settings: Settings, *, on_ready: Callable[[Started], None]) -> int:
    """
    Serve until SIGTERM or SIGINT; 0 then. `on_ready` is called once everything answers.

    Raises StateDirBusy, StateDirUnusable, NewerSchema, or McpgError for a port that is taken: nothing runs then. Usage for
    a fault point that is not there.
    """
    logs.configure(json_lines=settings.json_logs, level=settings.log_level)
    try:
        faults.arm(os.environ, faults.points(TABLES))
    except ValueError as exc:
        hint = f"the names are in docs/crash.md; to run without: unset {faults.VARIABLE}"
        raise Usage(f"{faults.VARIABLE} names no fault point", cause=str(exc), hint=hint) from exc
    sys.setswitchinterval(0.0005)  # a commit's thread says that it is durable as soon as it is: 5 ms is too long
    asyncio.run(_serve(settings, on_ready))
    return 0
