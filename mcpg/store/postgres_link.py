"""
How this project connects to PostgreSQL: what a URL may say, the session settings that bound a dead peer, and which errors
mean what. Used by the writer, the reads, the listener and Tortoise (postgres.py).
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

import asyncpg

from mcpg.errors import DatabaseUnusable, McpgError, Unavailable
from mcpg.host.database_url import parts_of, shown, without

Connection = Any  # asyncpg.Connection: it comes without types

CONNECT_S: Final = 5.0  # for a connection to stand
COMMAND_S: Final = 20.0  # for any one answer, after which the peer is taken for dead
STATEMENTS: Final = 512  # texts that a connection keeps prepared; there are fewer
JOURNAL_LOCK: Final = 0x6D637067_0001  # `mcpg`, 1: journal transactions of all replicas come one after the other
MIGRATION_LOCK: Final = 0x6D637067_0002
CHANNEL: Final = "mcpg"
FILES: Final = ("sslrootcert", "sslcert", "sslkey", "sslcrl")  # options of a URL that name a file

# A replica that dies, stops or is cut off in a transaction holds the journal's lock until its session ends: these end it,
# and where they cannot, who waits for the lock does (postgres_writer.py, `_HELD_BY_NOBODY`).
SETTINGS: Final = {
    "application_name": "mcpg-control-plane",
    "idle_in_transaction_session_timeout": "5s",
    "lock_timeout": "10s",
    "standard_conforming_strings": "on",  # in a literal a backslash is one
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

# Of the journal's own connection: its wait for the lock of all replicas ends, and is begun anew, inside a heartbeat's time.
JOURNAL: Final = INDEXED | {"lock_timeout": "5s"}


class _Session(asyncpg.Connection):  # type: ignore[misc]  # asyncpg has no types
    """Nothing of a session is changed by a read, so that giving it back to a pool needs no round trip."""

    def get_reset_query(self) -> str:
        return ""


def options(url: str, **settings: str) -> dict[str, Any]:
    """
    Keyword arguments of asyncpg.connect and create_pool; *settings* over the usual ones. Raises ValueError for a URL whose
    options cannot be read. `connect_timeout`, which libpq knows and asyncpg does not, can only shorten ours.
    """
    dsn, limit = without(url, "connect_timeout")
    return {
        "dsn": dsn,
        "timeout": min(CONNECT_S, float(limit)) if limit.isdecimal() and int(limit) > 0 else CONNECT_S,
        "command_timeout": COMMAND_S,
        "server_settings": SETTINGS | settings,
        "statement_cache_size": STATEMENTS,
        "connection_class": _Session,
    }


async def connect(url: str, **settings: str) -> Connection:
    """Raises what asyncpg raises: `unusable` and `unavailable` put it into words."""
    return await asyncpg.connect(**options(url, **settings))


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


def is_of_the_database(exc: BaseException) -> bool:
    """
    Whether *exc* blames the database and not what was asked: a full disk, a lock not had in time, a standby; tables that are
    gone or not ours to touch, for every statement here was written for those that were there at the start.
    """
    if isinstance(
        exc, asyncpg.UndefinedTableError | asyncpg.InvalidSchemaNameError | asyncpg.InsufficientPrivilegeError
    ):
        return True
    its_own = asyncpg.exceptions.DataError | asyncpg.SyntaxOrAccessError | asyncpg.IntegrityConstraintViolationError
    return isinstance(exc, asyncpg.PostgresError) and not isinstance(exc, its_own)


def words(exc: BaseException) -> str:
    """What it says, without the values that PostgreSQL adds in its DETAIL."""
    if isinstance(exc, asyncpg.PostgresError) and exc.args:
        return str(exc.args[0])
    return str(exc) or type(exc).__name__


def unavailable(exc: BaseException, known: str = "") -> Unavailable:
    """For a caller: it may try again. *known* is what is certain of what it asked for, e.g. that nothing was written."""
    if is_of_the_database(exc) and not is_away(exc):
        what, look = "the database cannot do it now", "PostgreSQL's log says more"
    else:
        what, look = "the database does not answer", "see that PostgreSQL runs where the control plane's --db-url says"
    hint = f"{known}{'; ' if known else ''}{look}; mcpg-ctl doctor"
    return Unavailable(what, cause=f"{type(exc).__name__}: {words(exc)}", hint=hint)


def unusable(url: str, exc: BaseException) -> McpgError:
    """For an operator, when the control plane starts: what is wrong with the URL or with the server behind it."""
    what, where = f"the database at {shown(url)} cannot be used", parts_of(url)
    if where is None:
        return DatabaseUnusable(
            "--db-url cannot be read", cause="it is not postgres://USER:PASSWORD@HOST:PORT/DATABASE",
            hint="write characters like / @ : # ? of a password as %2F %40 %3A %23 %3F",
        )  # fmt: skip
    asked = dict(parse_qsl(where.query))
    user = unquote(where.username or "") or asked.get("user", "")
    name = unquote(where.path.lstrip("/")) or asked.get("dbname") or asked.get("database") or ""
    cause = words(exc)
    match exc:
        case asyncpg.InvalidCatalogNameError():
            hint = f"createdb {shlex.quote(name)}, or name another database in --db-url" if name else ""
            hint = hint or "name a database in --db-url: postgres://USER@HOST/DATABASE"
        case asyncpg.InvalidPasswordError() | asyncpg.InvalidAuthorizationSpecificationError():
            hint = f"check user {user or 'of this process'} and its password, in --db-url or in ~/.pgpass"
        case asyncpg.InsufficientPrivilegeError():
            role = quoted(user) if user else "USER"
            hint = f"as its owner: GRANT CREATE, CONNECT ON DATABASE {quoted(name)} TO {role};"
            hint += f" GRANT ALL ON SCHEMA public TO {role}"
        case OverflowError():
            cause, hint = "its port is not one from 1 to 65535", "postgres://USER@HOST:PORT/DATABASE"
        case OSError() if unread := next(
            (f"{n}={asked[n]}" for n in FILES if n in asked and not _is_file(asked[n])), ""
        ):
            cause, hint = (
                f"{unread}: {exc.strerror or cause}",
                "give a file that this process may read, or leave it out",
            )
        case OSError() | TimeoutError():
            hint = "check that PostgreSQL runs there and accepts connections: pg_isready -h HOST -p PORT"
        case ValueError() if not isinstance(exc, asyncpg.InterfaceError):  # its words quote the URL
            cause, hint = (
                "its port or its options cannot be read",
                "postgres://USER@HOST:PORT/DATABASE?NAME=VALUE&NAME=VALUE",
            )
        case _:
            hint = "psql with the same URL shows whether the server takes it"
    return DatabaseUnusable(what, cause=cause, hint=hint)


def quoted(name: str) -> str:
    """*name* as SQL has it."""
    return '"' + name.replace('"', '""') + '"'


def _is_file(path: str) -> bool:
    return os.access(path, os.R_OK) and Path(path).is_file()
