"""A provisioner that runs nothing: for benchmarks of the engine and for tests. It satisfies ports.Provisioner."""

from __future__ import annotations

from collections.abc import Callable

from mcpg.engine.ports import Answer, Exited, Order, Placed, Removed


class Noop:
    """`observes` is False: nothing enrols and nothing answers. Placed replicas have pid 0, port 0 and no endpoints."""

    name = "noop"
    gateway_version = ""
    observes = False

    async def start(self, on_exit: Callable[[Exited], None]) -> None:
        """Nothing runs, so nothing ends."""

    async def reach(self) -> str:
        return ""

    async def apply(self, order: Order) -> tuple[Placed, ...]:
        return tuple(Placed(number, 0, 0, (), started=False) for number in range(1, order.replicas + 1))

    async def probe(self, instance_id: str) -> tuple[Answer, ...]:
        return ()

    async def alive(self, instance_id: str) -> frozenset[int] | None:
        return None

    def is_starting(self, instance_id: str, number: int) -> bool:
        return False

    def dials(self, instance_id: str) -> dict[int, str]:
        return {}

    async def keep(self, instance_id: str, config: str) -> None:
        """Nothing boots."""

    async def remove(self, instance_id: str) -> Removed:
        return Removed((), "nothing was running")

    async def explain(self, config: str) -> str:
        return ""

    async def stop(self) -> None:
        """There is nothing to stop watching."""
