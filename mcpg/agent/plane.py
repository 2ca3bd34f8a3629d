"""
What mcpg/agent/gateway.py needs of a data plane, and the one of its own: an MCP endpoint inside this process.

The other is mcpg/agent/child.py, the real gateway as a process of ours.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any, Protocol

from mcpg import errors
from mcpg.agent.dataplane import DataPlane
from mcpg.agent.dataplane_config import Config, Listener, compile_config, read_local_config
from mcpg.agent.pb import agent_pb2 as pb


class Plane(Protocol):
    """
    Serves one config at a time. `start` first, `stop` last; `drain` in between ends the taking of new work.

    `local_tools` is how many tools its local config names, None where that says nothing of tools. `is_up` is false
    while it serves nothing, and `warnings` says why.
    """

    local_tools: int | None

    @property
    def listener(self) -> Listener: ...

    @property
    def active_connections(self) -> int: ...

    @property
    def is_up(self) -> bool: ...

    @property
    def warnings(self) -> list[str]: ...

    async def start(self, first: pb.ConfigUpdate | None) -> int:
        """
        Serves *first*, or the local config with None, and returns how many tools that is.

        Raises errors.Failed where it cannot listen or be started, errors.BadConfig and errors.ConfigRejected where that
        config cannot be served; it may then be called again with another.
        """

    async def serve(self, update: pb.ConfigUpdate) -> int:
        """Serves *update*, seen to be served, and returns how many tools that is; or raises and serves on as before."""

    async def drain(self, seconds: float) -> None:
        """Takes no new sessions and waits for what runs, at most *seconds*."""

    async def stop(self) -> None:
        """Ends at once what is left."""

    def facts(self) -> dict[str, Any]:
        """What `gateway-status` shows of it."""


class OwnPlane:
    """The data plane in this process. Raises errors.Usage and errors.BadConfig for a local config it cannot serve."""

    def __init__(self, local_config: str) -> None:
        self._local = read_local_config(local_config)
        self._plane = DataPlane(self._local)
        self.local_tools = len(self._local.tools) if self._local.has_tools_section else None
        self.warnings: list[str] = []

    @property
    def listener(self) -> Listener:
        return self._plane.listener

    @property
    def active_connections(self) -> int:
        return self._plane.active_connections

    @property
    def is_up(self) -> bool:
        return True

    async def start(self, first: pb.ConfigUpdate | None) -> int:
        if first is not None:
            await self.serve(first)
        await self._plane.start()
        return len(self._plane.config.tools)

    async def serve(self, update: pb.ConfigUpdate) -> int:
        if any(entry.enabled for entry in update.bundle.plugin_set.entries):
            raise errors.BadConfig("the plugin set has enabled plugins, and this gateway runs none")
        # YAML in Python takes seconds for a megabyte; heartbeats and tools go on meanwhile.
        config = await asyncio.to_thread(compile_config, update.bundle.config_toml)
        self._plane.apply(config)
        self.warnings = self._warnings(config)
        return len(config.tools)

    def _warnings(self, config: Config) -> list[str]:
        if config.sets_listener and config.listener != self._local.listener:
            moved = "gateway.server is decided by the local config; what a push says there is not applied"
            return [*config.warnings, moved]
        return list(config.warnings)

    async def drain(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._plane.drain()

    async def stop(self) -> None:
        await self._plane.stop()

    def facts(self) -> dict[str, Any]:
        return {"kind": "own"}


def read_local(path: str) -> str:
    """The text of the local config *path*, "" for none. Raises errors.Usage, errors.BadConfig."""
    if not path:
        return ""
    try:
        return Path(path).read_bytes().decode("utf-8")
    except OSError as error:
        cause = error.strerror or str(error)
        raise errors.Usage(f"cannot read the local config {path}", cause=cause, hint="see MCPG_CONFIG") from None
    except UnicodeDecodeError as error:
        raise errors.BadConfig(f"the local config {path} is not UTF-8", cause=f"byte {error.start}") from None
