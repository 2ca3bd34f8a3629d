"""Operations that are held in a state, and what is asked of them there."""

from __future__ import annotations

import asyncio
from typing import Any

from mcpg.engine.attempts import Backoff
from tests.conftest import Plane


async def places(plane: Plane) -> int:
    return int((await plane.client.get("/v1/clusters")).json()[0]["gateways_running"])


class Begun:
    """A publish or delete that is under way: its id, and its ladder when it has ended."""

    def __init__(self, task: asyncio.Task[list[dict[str, Any]]], op: str) -> None:
        self.task, self.op = task, op


async def begun(plane: Plane, state: str, task: asyncio.Task[list[dict[str, Any]]]) -> Begun:
    async def there() -> str:
        rows = (await plane.client.get("/v1/operations")).json()
        return rows[0]["id"] if rows and rows[0]["state"] == state else ""

    return Begun(task, await plane.until(there, f"it is {state}"))


async def creating(plane: Plane, state: str = "applying", name: str = "edge-1", **body: Any) -> Begun:
    return await begun(plane, state, asyncio.create_task(plane.publish(name, **body)))


async def refused(plane: Plane, op: str, verb: str, status: int = 409) -> dict[str, Any]:
    answer = await plane.client.post(f"/v1/operations/{op}/{verb}", json={})
    assert answer.status_code == status, answer.text
    return dict(answer.json())


class Tomorrow(Backoff):
    """A pause that no test outlasts."""

    def pause_s(self, attempt: int, delay: float, left: float | None) -> float:
        return 86_400.0
