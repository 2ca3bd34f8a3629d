"""
The real gateway as our data plane (`gateway --exec`): started, told its configs, started again when it ends.

Called by mcpg/agent/gateway.py as a plane.Plane. A new config is pushed into the running process (child_link.py), so
that nothing is interrupted, and the gateway says in its own words what it refuses; what it refuses never becomes what
it is started with. The process itself is child_process.py.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from mcpg import errors
from mcpg.agent.backoff import HEALTHY_S
from mcpg.agent.child_link import ChildLink
from mcpg.agent.child_process import ChildProcess
from mcpg.agent.dataplane_config import Listener
from mcpg.agent.gateway_link import Timing
from mcpg.agent.inventory import listener_of, offered
from mcpg.agent.pb import agent_pb2 as pb
from mcpg.engine import config
from mcpg.host.binary import Gateway
from mcpg.host.checker import check

ATTACH_S: Final = 10.0  # it attaches 0.05 s after its start, and after a lost session with its own backoff
APPLY_S: Final = 15.0  # it acknowledges after 3 to 70 ms
BRAKE: Final = 5  # ends in a row, each within a minute of its start, after which only the longest delay is taken


class Child:
    """One supervised gateway. *local* is the text of the local config, "" for none. Raises errors.BadConfig for it."""

    def __init__(
        self,
        gateway: Gateway,
        state_dir: Path,
        local: str,
        *,
        tell: Callable[[str, dict[str, Any]], None],
        timing: Timing,
    ) -> None:
        self._gateway = gateway
        self._local = local or config.DEFAULT_CONFIG
        self._text = self._local
        self._tell = tell
        self._timing = timing
        self._backoff = timing.backoff()
        self._process = ChildProcess(gateway.argv, state_dir, listener_of(self._local), self._fell)
        self._link = ChildLink()  # type: ignore[abstract]  # the gateway calls nothing else
        self._changing = asyncio.Lock()  # one at a time starts it or gives it a config
        self._restarting: asyncio.Task[None] | None = None
        self._stopping = False
        self._trouble = ""
        self._restarts = 0
        self._ends = 0  # in a row
        self._started_at = 0.0
        names = offered(self._local)
        self.local_tools = None if names is None else len(names["tools"])

    # ---- what is seen of it

    @property
    def listener(self) -> Listener:
        return self._process.listener

    @property
    def active_connections(self) -> int:
        return 0  # the real gateway does not say

    @property
    def is_up(self) -> bool:
        return self._process.pid is not None

    @property
    def warnings(self) -> list[str]:
        return [*([self._trouble] if self._trouble else []), *self._link.warnings]

    def facts(self) -> dict[str, Any]:
        known = {"program": self._gateway.path, "version": self._gateway.version, "pid": self._process.pid}
        return {"kind": "exec", **known, "restarts": self._restarts, "trouble": self._trouble}

    # ---- what it serves

    async def start(self, first: pb.ConfigUpdate | None) -> int:
        async with self._changing:
            if not self._link.url:
                await self._link.start()
            text = self._local if first is None else _text_of(first)
            if failed := await self._launch(text):
                raise errors.ConfigRejected(f"the data plane {self._gateway.path} does not start", cause=failed)
            self._text = text
            return _tools(text)

    async def serve(self, update: pb.ConfigUpdate) -> int:
        text = _text_of(update)
        self._process.boot_text(text, {})  # what it could not be started with again must not be served
        async with self._changing:
            if self._stopping:
                raise errors.ConfigRejected("this gateway is stopping")
            await (self._push(update, text) if self.is_up else self._start_with(text))
            self._text = text
            return _tools(text)

    async def _push(self, update: pb.ConfigUpdate, text: str) -> None:
        try:
            async with asyncio.timeout(ATTACH_S):
                await self._link.attached.wait()
        except TimeoutError:
            raise errors.ConfigRejected(f"the data plane has not attached to its agent in {ATTACH_S:g} s") from None
        ack = await self._link.push(update, APPLY_S)
        if ack is None:
            why = self._trouble or f"it said nothing in {APPLY_S:g} s"
            raise errors.ConfigRejected("the data plane did not take it", cause=why)
        if ack.applied_state != "active":
            raise errors.ConfigRejected(ack.error, cause=await check(Path(self._gateway.path), text))
        if unwell := await self._process.unwell():
            raise errors.ConfigRejected("the data plane took it and does not answer", cause=unwell)

    async def _start_with(self, text: str) -> None:
        """It is down, and this config may be the cure. Where it is not, the old one is tried again in its time."""
        if failed := await self._launch(text):
            raise errors.ConfigRejected("the data plane does not start with it", cause=failed)
        self._leave_it()

    # ---- that it runs

    async def _launch(self, text: str) -> str:
        self._link.warnings = []
        failed = await self._process.start(text, self._link.block(self._process.directory / "agent"))
        if not failed:
            self._restarts += bool(self._started_at)
            self._trouble, self._started_at = "", time.monotonic()
            self._tell("dataplane_started", {"pid": self._process.pid, "port": self.listener.port})
        return failed

    def _fell(self, why: str) -> None:
        """It ended on its own."""
        if time.monotonic() - self._started_at >= HEALTHY_S:
            self._ends = 0
        self._trouble = f"the data plane ended ({why})"
        self._restarting = asyncio.create_task(self._restart(why))

    async def _restart(self, why: str) -> None:
        """Starts it again, the later the more often it ended soon after its start; never gives up."""
        while why:
            self._ends += 1
            wait_s = self._backoff.closed(ok=self._ends == 1)
            often = f", {self._ends} times in a row" if self._ends > 1 else ""
            if self._ends >= BRAKE:
                wait_s = max(wait_s, self._timing.backoff_cap_s)
            self._trouble = f"the data plane ended{often} ({why}); it is started again in {wait_s:.0f} s"
            self._tell("dataplane_ended", {"reason": why, "times": self._ends, "retry_in_s": round(wait_s, 1)})
            await asyncio.sleep(wait_s)
            async with self._changing:
                try:
                    why = "" if self.is_up else await self._launch(self._text)
                except (errors.McpgError, OSError) as error:  # a full disk: it may be emptied
                    why = str(error)

    def _leave_it(self) -> None:
        if self._restarting is not None:
            self._restarting.cancel()
            self._restarting = None

    # ---- its end

    async def drain(self, seconds: float) -> None:
        """SIGTERM: it answers what it was asked and ends."""
        self._stopping = True
        self._leave_it()
        async with self._changing:
            await self._process.end(seconds)

    async def stop(self) -> None:
        self._leave_it()
        async with self._changing:
            await self._process.end(0)
        await self._link.stop()


def _text_of(update: pb.ConfigUpdate) -> str:
    try:
        return update.bundle.config_toml.decode("utf-8")
    except UnicodeDecodeError as error:
        raise errors.BadConfig(f"not utf8: {error.reason} at byte {error.start}") from None


def _tools(config_text: str) -> int:
    return len((offered(config_text) or {"tools": []})["tools"])
