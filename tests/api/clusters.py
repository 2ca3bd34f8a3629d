"""Short ways to make clusters and orphans over HTTP, and to look at them."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx

from tests.conftest import Plane

ADMIN = "/v1/admin/clusters"
EU = {"name": "eu-1", "region": "eu", "gateways_max": 10}
K8S = EU | {"provisioner": "kubernetes", "kube_context": "prod", "kube_server": "https://10.0.0.1:6443"}


async def register(plane: Plane, **more: Any) -> dict[str, Any]:
    answer = await plane.client.post(ADMIN, json=EU | more)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def get(plane: Plane, path: str) -> Any:
    return (await plane.client.get(path)).raise_for_status().json()


async def cluster(plane: Plane, ref: str) -> dict[str, Any]:
    return dict(await get(plane, f"/v1/clusters/{ref}"))


async def without_heartbeat(plane: Plane) -> None:
    """On PostgreSQL it writes every few seconds: not while a test counts what is written."""
    tasks = plane.engine.leases._tasks
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert (answer.status_code, answer.json().get("code")) == (status, code), answer.text
    return dict(answer.json())


async def orphan(plane: Plane, name: str = "edge-1", **body: Any) -> str:
    """The uid of a gateway whose cluster eu-1 was taken away by force."""
    await register(plane)
    uid = (await plane.publish(name, region="eu", **body))[-1]["coords"]["instance_uid"]
    assert (await plane.client.delete(f"{ADMIN}/eu-1?force=true")).status_code == 200
    return str(uid)


def amount(total: int | None, used: int = 0, reserved: int = 0) -> dict[str, int | None]:
    free = None if total is None else total - used - reserved
    return {"total": total, "used": used, "reserved": reserved, "free": free}
