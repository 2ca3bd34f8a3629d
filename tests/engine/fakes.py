"""A provisioner that does what a test tells it, and counts what it was asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from mcpg.engine.ports import Answer, Exited, Order, Placed, Removed


class Scripted:
    """
    Implements Provisioner. `problems` are raised by successive applies; `hold` blocks apply until it is set.

    `unreachable` is why no gateway could be started. `interrupted` counts the applies that were cut short while held; with
    `stubborn` such an apply does not listen: it goes on until that is set, and then has started something. `story` is what
    was begun and ended, in order.
    """

    name = "scripted"
    gateway_version = "scripted 1"
    observes = False

    def __init__(self) -> None:
        self.problems: list[Exception] = []
        self.remove_problems: list[Exception] = []
        self.hold: asyncio.Event | None = None
        self.orders: list[Order] = []
        self.removed: list[str] = []
        self.running: dict[str, int] = {}
        self.unreachable = ""
        self.interrupted = 0
        self.stubborn: asyncio.Event | None = None
        self.remove_hold: asyncio.Event | None = None
        self.story: list[str] = []
        self.entered = asyncio.Event()
        self.on_exit: Callable[[Exited], None]

    async def start(self, on_exit: Callable[[Exited], None]) -> None:
        self.on_exit = on_exit

    async def reach(self) -> str:
        return self.unreachable

    async def apply(self, order: Order) -> tuple[Placed, ...]:
        self.orders.append(order)
        self.entered.set()
        self.story.append("apply begins")
        try:
            await self._held(order)
        finally:
            self.story.append("apply ends")
        if self.problems:
            raise self.problems.pop(0)
        self.running[order.instance_id] = order.replicas
        return tuple(
            Placed(r, 1000 + r, 2000 + r, (f"http://127.0.0.1:{2000 + r}/mcp",), True)
            for r in range(1, order.replicas + 1)
        )

    async def _held(self, order: Order) -> None:
        try:
            if self.hold is not None:
                await self.hold.wait()
        except asyncio.CancelledError:
            self.interrupted += 1
            if self.stubborn is not None:
                await self.stubborn.wait()
                self.running[order.instance_id] = order.replicas
            raise

    async def probe(self, instance_id: str) -> tuple[Answer, ...]:
        return ()

    async def alive(self, instance_id: str) -> frozenset[int] | None:
        return None

    def is_starting(self, instance_id: str, number: int) -> bool:
        return False

    def dials(self, instance_id: str) -> dict[int, str]:
        return {}

    async def keep(self, instance_id: str, config: str) -> None: ...

    async def remove(self, instance_id: str) -> Removed:
        if self.remove_problems:
            raise self.remove_problems.pop(0)
        self.story.append("remove")
        if self.remove_hold is not None:
            await self.remove_hold.wait()
        self.removed.append(instance_id)
        self.running.pop(instance_id, None)
        return Removed((), "removed")

    async def explain(self, config: str) -> str:
        return ""

    async def stop(self) -> None: ...
