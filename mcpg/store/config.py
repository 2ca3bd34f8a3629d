"""How Tortoise is set up, for the server and for `python -m tortoise -c mcpg.store.config.DEVELOP makemigrations`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

SYNCHRONOUS: Final = "FULL"  # never traded for speed: 1.26x at 32 callers (docs/performance.md)
BUSY_TIMEOUT_MS: Final = 10_000


def _apps(connection: str) -> dict[str, Any]:
    models = {"models": ["mcpg.store.models"], "migrations": "mcpg.store.migrations"}
    return {"store": {**models, "default_connection": connection}}


def tortoise_config(path: Path | str) -> dict[str, Any]:
    """One connection, which writes rarely: for states see journal.py, for reads sqlite_database.py."""
    credentials = {"file_path": str(path), "busy_timeout": BUSY_TIMEOUT_MS, "synchronous": SYNCHRONOUS}
    return {
        "connections": {"default": {"engine": "mcpg.store.sqlite", "credentials": credentials}},
        "apps": _apps("default"),
    }


def postgres_config(url: str, **settings: str) -> dict[str, Any]:
    """
    One small pool, for what is written at human speed; *settings* over the usual ones of a session. It is not `default`, for
    Tortoise keeps SQL by the connection's name, and one process may have had a SQLite database open before.
    """
    connection = {"engine": "mcpg.store.postgres", "credentials": {"dsn": url, "settings": settings}}
    return {"connections": {"postgres": connection}, "apps": _apps("postgres")}


DEVELOP: Final = tortoise_config(".cache/develop.db")
