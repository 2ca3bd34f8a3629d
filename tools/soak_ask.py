"""How the soak's clients read what a control plane answers, which may be cut short anywhere."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx


class Unanswered(Exception):
    """A refusal that says: try again."""


async def json_of(client: httpx.AsyncClient, path: str, method: str = "GET") -> Any:
    answer = await client.request(method, path)
    if answer.status_code >= 500:
        raise Unanswered
    return answer.json()


async def frames(
    client: httpx.AsyncClient, path: str, headers: dict[str, str]
) -> AsyncIterator[tuple[str, dict[str, Any], str]]:
    """Frames of a stream: event, data, id. A frame that was cut short is none."""
    async with client.stream("GET", path, headers=headers) as answer:
        if answer.status_code != 200:
            await answer.aread()
            raise httpx.ReadError(f"{answer.status_code}")
        event, data, number = "", "", ""
        async for line in answer.aiter_lines():
            name, _, value = line.partition(": ")
            if name == "event":
                event = value
            elif name == "data":
                data = value
            elif name == "id":
                number = value
            elif not line:
                if event or number:
                    yield event, json.loads(data) if data else {}, number
                event = data = number = ""
