"""
The program that gateways of this control plane are: chosen once, when it starts, and then kept.

What is chosen may be away for a moment (a package that is upgraded), and is waited for then: nothing else is started in its
place. So a real gateway never becomes our own agent unnoticed, nor after a restart that found none. Called by local.py.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from pathlib import Path

from mcpg.engine import config
from mcpg.errors import BadConfig, PermanentError, TemporaryError
from mcpg.host.binary import Gateway, find_gateway, found_again
from mcpg.provisioners.replica import Replica

log = logging.getLogger("mcpg.provisioners")


class Program:
    """*setting* is a path, or "" to find one. `version` and `path` are of the last look; "" while it is away."""

    def __init__(self, setting: str, cache_dirs: tuple[Path, ...]) -> None:
        self.version = self.path = ""
        self._setting = setting
        self._cache_dirs = cache_dirs
        self._chosen: Gateway | None = None

    async def choose(self, there: Iterable[Replica]) -> None:
        """The choice, at the start; a setting that names nothing is said when a gateway is wanted. *there* are on disk."""
        try:
            gateway = await self.find()
        except PermanentError:
            return
        if gateway.kind == "own" and not self._setting and (real := [r for r in there if is_real(r)]):
            log.warning(
                "there is no mcpg on PATH, and %d replica(s) here run it: they are left as they are, and not started again until"
                " this control plane is restarted with mcpg on PATH, or with --gateway-bin", len(real),
            )  # fmt: skip

    async def find(self) -> Gateway:
        """What was chosen, as it is now: it may have been upgraded. Raises PermanentError where it cannot be run now."""
        try:
            gateway = await asyncio.to_thread(self._look)
        except PermanentError:
            self.version = ""
            raise
        self.version, self.path = gateway.version, gateway.path if gateway.kind == "mcpg" else ""
        return gateway

    def _look(self) -> Gateway:
        if self._setting:
            return find_gateway(self._setting)
        if self._chosen is None:
            self._chosen = find_gateway("", self._cache_dirs)
        return found_again(self._chosen)

    async def to_start(self, name: str, replicas: Iterable[Replica]) -> Gateway:
        """
        What a replica of gateway *name* is started as; *replicas* are those it has on disk. Raises TemporaryError while
        that cannot be run, and where it would be our own agent in the place of the real gateway.
        """
        try:
            gateway = await self.find()
        except PermanentError as exc:  # it may be on its way: a package that is upgraded is gone for a moment
            raise TemporaryError(exc.what, cause=exc.cause, hint=exc.hint) from exc
        if gateway.kind == "own" and not self._setting and any(map(is_real, replicas)):
            raise TemporaryError(
                f"{name} runs mcpg, and there was none on PATH when this control plane started",
                cause="our own agent is not started in its place",
                hint="install mcpg and restart the control plane, or restart it with --gateway-bin PATH",
            )
        return gateway


def is_real(replica: Replica) -> bool:
    """Whether it was last started as the real gateway: only that is told in its boot file where to attach."""
    try:
        _, control_plane = config.booted(replica.boot_file.read_text(encoding="utf-8"))
    except (OSError, BadConfig, ValueError):
        return False
    return bool(control_plane)
