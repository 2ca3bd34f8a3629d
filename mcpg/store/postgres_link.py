"""
How this project connects to PostgreSQL: what a URL may say, the session settings that bound a dead peer, and which errors
mean what. Used by the writer, the reads, the listener and Tortoise (postgres.py).
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlsplit

import asyncpg

from mcpg.errors import DatabaseUnusable, McpgError, Unavailable

Connection = Any  # asyncpg.Connection: it comes without types

CONNECT_S: Final = 5.0  # for a connection to stand
COMMAND_S: Final = 20.0  # for any one answer, after which the peer is taken for dead
STATEMENTS: Final = 512  # texts that a connection keeps prepared; there are fewer
JOURNAL_LOCK: Final = 0x6D637067_0001  # `mcpg`, 1: journal transactions of all replicas come one after the other
MIGRATION_LOCK: Final = 0x6D637067_0002
CHANNEL: Final = "mcpg"

# A replica that dies, stops or is cut off in a transaction holds the journal's lock until its session ends: these end it.
SETTINGS: Final = {
    "application_name": "mcpg-control-plane",
    "idle_in_transaction_session_timeout": "5s",
    "lock_timeout": "10s",
    "statement_timeout": "15s",
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "10s",
    "timezone": "UTC",
    "jit": "off",  # compiling costs more than any statement here takes
}
# Of a connection on which every statement finds its rows by an index: one plan does for all values, is made once for each
# text, and is the right one also while a table is small, or was when the plan was made.
INDEXED: Final = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
}


class _Session(asyncpg.Connection):  # type: ignore[misc]  # asyncpg has no types
    """Nothing of a session is changed by a read, so that giving it back to a pool needs no round trip."""

    def get_reset_query(self) -> str:
        return ""


def shown(url: str) -> str:
    """The URL as it may be seen: without user, password and options."""
    try:
        parts = urlsplit(url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    except ValueError:
        return "postgres://…"


def options(**settings: str) -> dict[str, Any]:
    """Keyword arguments of asyncpg.connect and create_pool; *settings* over the usual ones."""
    return {
        "timeout": CONNECT_S,
        "command_timeout": COMMAND_S,
        "server_settings": SETTINGS | settings,
        "statement_cache_size": STATEMENTS,
        "connection_class": _Session,
    }


async def connect(url: str, **settings: str) -> Connection:
    """Raises what asyncpg raises: `unusable` and `unavailable` put it into words."""
    return await asyncpg.connect(url, **options(**settings))


def is_away(exc: BaseException) -> bool:
    """Whether *exc* says that the connection, or the server behind it, is gone: nothing about what was asked."""
    return isinstance(
        exc,
        OSError
        | TimeoutError
        | asyncpg.PostgresConnectionError
        | asyncpg.InternalClientError
        | asyncpg.AdminShutdownError
        | asyncpg.CrashShutdownError
        | asyncpg.CannotConnectNowError
        | asyncpg.IdleInTransactionSessionTimeoutError
        | asyncpg.InvalidAuthorizationSpecificationError
        | asyncpg.InvalidCatalogNameError,
    ) and not isinstance(exc, asyncpg.exceptions.DataError)


def is_its_own(exc: BaseException) -> bool:
    """Whether *exc* is about one statement's own content, so that its neighbours may go on."""
    return not isinstance(exc, asyncpg.PostgresError) or isinstance(
        exc, asyncpg.exceptions.DataError | asyncpg.SyntaxOrAccessError | asyncpg.IntegrityConstraintViolationError
    )


def words(exc: BaseException) -> str:
    """What it says, without the values that PostgreSQL adds in its DETAIL."""
    if isinstance(exc, asyncpg.PostgresError) and exc.args:
        return str(exc.args[0])
    return str(exc) or type(exc).__name__


def unavailable(exc: BaseException) -> Unavailable:
    """For a caller: it may try again."""
    return Unavailable("the database does not answer", cause=f"{type(exc).__name__}: {words(exc)}")


def unusable(url: str, exc: BaseException) -> McpgError:
    """For an operator, when the control plane starts: what is wrong with the URL or with the server behind it."""
    what, where, user = f"the database at {shown(url)} cannot be used", urlsplit_or_none(url), ""
    if where is None:
        return DatabaseUnusable(
            "--db-url cannot be read", cause="it is not postgres://USER:PASSWORD@HOST:PORT/DATABASE",
            hint="write characters like / @ : # of a password as %2F %40 %3A %23",
        )  # fmt: skip
    user, name = where.username or "", where.path.lstrip("/")
    match exc:
        case asyncpg.InvalidCatalogNameError():
            hint = f"createdb {name}, or name another database in --db-url"
        case asyncpg.InvalidPasswordError() | asyncpg.InvalidAuthorizationSpecificationError():
            hint = f"check user {user or 'of this process'} and its password, in --db-url or in ~/.pgpass"
        case asyncpg.InsufficientPrivilegeError():
            hint = f'as its owner: GRANT CREATE, CONNECT ON DATABASE "{name}" TO "{user}"; GRANT ALL ON SCHEMA public TO "{user}"'
        case OSError() | TimeoutError():
            hint = "check that PostgreSQL runs there and accepts connections: pg_isready -h HOST -p PORT"
        case _:
            hint = "psql with the same URL shows whether the server takes it"
    return DatabaseUnusable(what, cause=words(exc), hint=hint)


def urlsplit_or_none(url: str) -> Any:
    """The URL's parts, None when it has a port that is none: an unescaped password, most likely, so it is not quoted."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts if parts.hostname or parts.query or not parts.netloc else None
