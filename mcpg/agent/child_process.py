"""
The process of a supervised data plane: its files, its port, its start, its end. Called by mcpg/agent/child.py.

It is detached and on record (mcpg/host/processes.py): an agent that was killed leaves it serving, and the next agent
(mcpg/agent/gateway.py), of either kind, ends it before it serves itself, so there is never a second.

    <state>/gateway-agent/dataplane/        0700
        gateway.yaml    what it was started with, 0600; says how to reach us
        record          who it is: pid, start time, boot
        port            where the kernel put it, when its config leaves that open
        log, log.1      what it printed
        agent/          its own files, made anew at each start
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from mcpg import errors
from mcpg.agent import child_record, credentials
from mcpg.agent.dataplane_config import Listener
from mcpg.engine import config
from mcpg.host import processes
from mcpg.host.loopback import ask_health, reserve
from mcpg.host.processes import Watch
from mcpg.host.words import last_words

START_S: Final = 10.0  # it listens after 0.015 to 0.07 s
STEP_S: Final = 0.02
GRACE_S: Final = 2.0  # for one that is not wanted any more; it needs 0.1 s
LOG_BYTES: Final = 10 * 1024 * 1024
WILDCARDS: Final = frozenset({"0.0.0.0", "::"})
# Secrets, and what is said anew: the data plane gets the rest of our environment, its config may name variables of it.
_KEPT_BACK: Final = frozenset({"MCPG_ENROLLMENT_URL", "MCPG_SESSION_COOKIE", "MCPG_CP_GRPC", "MCPG_INSTANCE_UID"})


async def end_left(state_dir: Path) -> int | None:
    """Ends what an agent that was killed has left; its pid (0: it had none on record), None where nothing ran."""
    directory, marker = child_record.directory(state_dir), child_record.marker(state_dir)
    if not directory.exists():
        return None
    record = processes.read_record(directory / "record")
    old = Watch(record.identity, marker, 0, lambda _watch, _code: None) if record else None
    was_alive = old is not None and old.open()
    if old is not None and was_alive:
        await old.end(GRACE_S)
    found = await processes.end_marked(marker)  # a launcher on its way has no record yet
    return old.identity.pid if old is not None and was_alive else (0 if found else None)


class ChildProcess:
    """At most one process. `on_end` is called with the reason when it ends on its own."""

    def __init__(
        self, argv: tuple[str, ...], state_dir: Path, listener: Listener, on_end: Callable[[str], None]
    ) -> None:
        self.directory = child_record.directory(state_dir)
        self.listener = listener
        self._argv = argv
        self._marker = child_record.marker(state_dir)
        self._chooses_port = not listener.port
        self._on_end = on_end
        self._watch: Watch | None = None

    @property
    def pid(self) -> int | None:
        return self._watch.identity.pid if self._watch else None

    async def start(self, config_text: str, control_plane: dict[str, Any]) -> str:
        """
        Starts it and waits until it answers: "", or why it does not, and then nothing of it runs.

        Raises errors.BadConfig where *config_text* cannot be written as a boot file, errors.StateDirUnusable.
        """
        held = self._reserve()
        try:
            path = self.directory / "gateway.yaml"
            credentials.write_atomically(path, self.boot_text(config_text, control_plane).encode())
            await asyncio.to_thread(shutil.rmtree, self.directory / "agent", ignore_errors=True)
            return await self._launch()
        except errors.TemporaryError as error:
            return f"{error.what}: {error.cause}"
        finally:
            if held is not None:
                held.close()

    def boot_text(self, config_text: str, control_plane: dict[str, Any]) -> str:
        """*config_text*, bound to where we want it and attached to us. Raises errors.BadConfig."""
        at = self.listener
        bind = f"[{at.host}]:{at.port}" if ":" in at.host else f"{at.host}:{at.port}"
        paths = {"mcp_path": at.mcp_path, "health_path": at.health_path}
        return config.boot(config_text, bind=bind, control_plane=control_plane, **paths)

    async def unwell(self) -> str:
        """Why it does not answer; "" when it does."""
        at = self.listener
        host = "127.0.0.1" if at.host in WILDCARDS else at.host
        ok, detail = await ask_health(at.port, at.health_path, host)
        return "" if ok else detail

    async def end(self, grace_s: float) -> None:
        """SIGTERM lets it answer what it was asked; what still runs after *grace_s* is killed."""
        watch, self._watch = self._watch, None
        await self._end(watch, grace_s)

    async def _end(self, watch: Watch | None, grace_s: float) -> None:
        if watch is not None:
            watch.expected = True
            await watch.end(grace_s)
        await processes.end_marked(self._marker)  # also what was only on its way

    async def _launch(self) -> str:
        record, log = self.directory / "record", self.directory / "log"
        offset = _put_aside(log)
        record.unlink(missing_ok=True)
        env = {key: value for key, value in os.environ.items() if key not in _KEPT_BACK}
        env |= {processes.MARKER: self._marker, "MCPG_STATE_DIR": str(self.directory)}
        env |= {"MCPG_CONFIG": str(self.directory / "gateway.yaml")}
        pid = await processes.launch(self._argv, record=record, log=log, log_offset=offset, cwd=self.directory, env=env)
        written = processes.read_record(record)
        watch = Watch(written.identity, self._marker, offset, self._ended, expected=True) if written else None
        if watch is None or not watch.open():
            return self._how(offset, None if pid is None else processes.collect(pid))
        try:
            failed = await self._settled(watch)
            if not failed:
                self._watch, watch.expected = watch, False
        finally:
            if self._watch is not watch:
                await self._end(watch, GRACE_S)
        return failed

    async def _settled(self, watch: Watch) -> str:
        """Waits until it listens and answers: "", or why it does not."""
        deadline = time.monotonic() + START_S
        where = f"{self.listener.host}:{self.listener.port}"
        while not watch.ended.done():
            owner = processes.listener(self.listener.port, watch.identity, self._marker, self.listener.host)
            if owner == "other":  # the real gateway lives on, deaf, when its port is taken
                return f"another process listens on {where}"
            if owner == "ours" and not await self.unwell():
                return ""
            if time.monotonic() >= deadline:
                return f"it does not answer on {where} after {START_S:g} s"
            await asyncio.wait({watch.ended}, timeout=STEP_S)
        return self._how(watch.log_offset, watch.ended.result())

    def _ended(self, watch: Watch, code: int | None) -> None:
        if watch is self._watch and not watch.expected:
            self._watch = None
            self._on_end(self._how(watch.log_offset, code))

    def _how(self, log_offset: int, code: int | None) -> str:
        """How it ended, and its last words."""
        how = "it ended" if code is None else f"signal {-code}" if code < 0 else f"exit code {code}"
        was_told = code in (0, -signal.SIGTERM, -signal.SIGKILL)  # somebody ended it: its log has no reason
        said = "" if was_told else last_words(self.directory / "log", log_offset).replace("\n", "; ")
        return f"{how}: {said}" if said else how

    def _reserve(self) -> socket.socket | None:
        """Where the config leaves the port open: the one it had before, else the kernel's, held until it listens."""
        if not self._chooses_port:
            return None
        path = self.directory / "port"
        before = credentials.read_file(path, private=False) or b""
        held = reserve(int(before) if before.isdigit() and int(before) < 65536 else 0)
        port = int(held.getsockname()[1])
        self.listener = Listener("127.0.0.1", port, self.listener.mcp_path, self.listener.health_path)
        credentials.write_atomically(path, str(port).encode())
        return held


def _put_aside(log: Path) -> int:
    """Where the next process's part of *log* begins, in bytes; a large one becomes log.1 first."""
    size = log.stat().st_size if log.exists() else 0
    if size <= LOG_BYTES:
        return size
    log.replace(log.with_name("log.1"))
    return 0
