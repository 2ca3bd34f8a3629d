"""
The Tortoise engine for PostgreSQL: the stock one, on a pool that is made from the whole URL and the usual session settings.

Only `Database.run_tx` opens a transaction on it, in a task that no caller can cancel: stock 1.1.9 leaks a pool's slot when a
task is cancelled during BEGIN.
"""

from __future__ import annotations

from typing import Any

import asyncpg
from tortoise.backends.asyncpg.client import AsyncpgDBClient

from mcpg.store.postgres_link import options


class UrlClient(AsyncpgDBClient):
    """`dsn` and `settings` come from config.py, `postgres_config`."""

    def __init__(self, dsn: str, settings: dict[str, str] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._dsn = dsn
        self._settings = settings or {}

    async def create_pool(self, **kwargs: Any) -> asyncpg.Pool:
        return await asyncpg.create_pool(min_size=0, max_size=2, **options(self._dsn, **self._settings))


client_class = UrlClient
