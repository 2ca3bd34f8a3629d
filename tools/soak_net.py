"""A TCP proxy between a control plane and its database, in the soak's own event loop: the network that can be cut."""

from __future__ import annotations

import asyncio
from contextlib import suppress

CHUNK = 65536


class Wire:
    """Listens on a loopback port of the kernel's choice and passes on to *target*; use as an async context manager."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._open: set[asyncio.StreamWriter] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self._refuses = False
        self._server: asyncio.Server | None = None
        self._taken: set[asyncio.Task[None]] = set()
        self.port = 0

    async def __aenter__(self) -> Wire:
        self._server = await asyncio.start_server(self._take, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.heal()
        self.reset()
        if self._taken:
            await asyncio.wait(self._taken)

    # ---- what goes wrong

    def stall(self) -> None:
        """Nothing passes, connections stay: what a host that went away looks like."""
        self._flows.clear()

    def reset(self) -> None:
        """Every connection ends now, in the middle of whatever it was."""
        for writer in list(self._open):
            writer.transport.abort()

    def refuse(self) -> None:
        """As `reset`, and no new connection until `heal`."""
        self._refuses = True
        self.reset()

    def heal(self) -> None:
        self._refuses = False
        self._flows.set()

    # ---- what goes right

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._taken.add(task)
        task.add_done_callback(self._taken.discard)
        if self._refuses:
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        self._open |= {writer, far_writer}
        try:
            await asyncio.gather(self._pass(reader, far_writer), self._pass(far_reader, writer))
        finally:
            self._open -= {writer, far_writer}
            for each in (writer, far_writer):
                each.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while chunk := await reader.read(CHUNK):
                await self._flows.wait()
                writer.write(chunk)
                await writer.drain()
        writer.transport.abort()
