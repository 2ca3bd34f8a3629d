"""
A whole control plane (HTTP, gRPC, SQLite) whose provisioner writes down what it starts: benchmarks/recover.py kills it.

`begin N` accepts N creates and hangs inside each one's apply, which has had its effect by then. `go-on N` is the start
after the kill: it ends once N operations are ready, and prints when the last one was, on CLOCK_MONOTONIC.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from mcpg.engine.core import Scope
from mcpg.engine.ports import Exited, Order, Placed
from mcpg.engine.requests import Publish, publish
from mcpg.machines import provision
from mcpg.provisioners.noop import Noop
from mcpg.server import ControlPlane
from mcpg.settings import Server
from mcpg.store.journal import Line


class Marking(Noop):
    """One file a started gateway, named by the order's operation: O_EXCL, so that a second start would be seen."""

    def __init__(self, world: Path, *, hangs: bool) -> None:
        self._world = world
        self._hangs = hangs

    async def start(self, on_exit: Callable[[Exited], None]) -> None:
        self._world.mkdir(exist_ok=True)

    async def apply(self, order: Order) -> tuple[Placed, ...]:
        mark = self._world / order.operation_id
        if not mark.exists():  # the outside knows what it has started: by the order's key
            with mark.open("x") as file:
                file.write("started\n")
        if self._hangs:
            await asyncio.Event().wait()
        return await super().apply(order)


async def serve(directory: Path, count: int, *, hangs: bool) -> None:
    settings = Server(
        state_dir=directory / "state", bind_http="127.0.0.1:0", bind_grpc="127.0.0.1:0", local_gateways_max=10_000
    )
    ready: set[str] = set()
    done = asyncio.Event()
    last = 0.0

    def heard(line: Line) -> None:
        nonlocal last
        if line.machine == provision.MACHINE.name and line.dest == provision.State.READY.value:
            ready.add(line.subject)
            last = time.monotonic()
            if len(ready) == count:
                done.set()

    async with ControlPlane(settings, provisioner=Marking(directory / "world", hangs=hangs)) as plane:
        if hangs:
            where = Scope("default", "default", "default")
            for number in range(count):
                await publish(plane.engine, where, Publish(name=f"rec-{number}"), actor="bench", key=None)
            await asyncio.Event().wait()
        plane.db.writer.listen(heard)
        rows = await plane.db.many("SELECT id FROM operation WHERE state='ready'")
        ready.update(row["id"] for row in rows)  # ended while we started
        if len(ready) < count:
            async with asyncio.timeout(60):
                await done.wait()
        print(json.dumps({"last_ready": last or time.monotonic(), "cpu_s": time.process_time()}), flush=True)


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[2]), int(sys.argv[3]), hangs=sys.argv[1] == "begin"))
