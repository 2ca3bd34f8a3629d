"""
The control plane's database, looked at from outside: where it is, and read-only connections that write nothing at all.

Called by status.py and by the checks of `doctor`. Neither the file nor what lies beside it is created or changed.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from mcpg.errors import StateDirUnusable
from mcpg.host.database_url import shown

_BUSY_S = 1.0


class Place(NamedTuple):
    """Where the database is. `path` is None for one that is no file; `shown` never holds a password."""

    path: Path | None
    shown: str

    @property
    def exists(self) -> bool:
        return self.path is not None and self.path.is_file()


def place(db_url: str, state_dir: Path, record: dict[str, Any]) -> Place:
    """
    What *db_url* names; when it is empty, what the server's *record* says, and without one the state directory's own.

    A sqlite URL is read as the server reads it (mcpg/store/database.py, `sqlite_path`).
    """
    if not db_url:
        found = str(record.get("db_path") or state_dir / "cp-state.db")
        return Place(None, shown(found)) if "://" in found else Place(Path(found), found)
    scheme, _, rest = db_url.partition(":")
    name = rest.removeprefix("//").partition("?")[0]
    if scheme != "sqlite" or not name or name == ":memory:":
        return Place(None, shown(db_url))
    path = Path(name).expanduser().absolute()
    return Place(path, str(path))


@contextlib.contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """A read transaction on the database at *path*. Raises StateDirUnusable when it cannot be read as one."""
    try:
        with contextlib.closing(_connected(path)) as db:
            yield db
    except (sqlite3.Error, OSError) as exc:
        wal = path.with_name(f"{path.name}-wal")
        hint = "another file: --db-url sqlite:PATH or --state-dir PATH"
        if is_wal(path) and _size(wal) and not path.with_name(f"{path.name}-shm").exists():
            hint = f"{wal.name} lies there without its -shm: mcpg-ctl serve folds it in"
        raise StateDirUnusable(f"{path} cannot be read as a database", cause=str(exc), hint=hint) from None


def _connected(path: Path) -> sqlite3.Connection:
    """
    A connection inside a transaction. Even read-only, SQLite makes or mends the -wal and -shm of a WAL database.

    One with nothing in its -wal is read as immutable, which works in a directory of somebody else as well; for the rest
    `readonly_shm` keeps it from writing, be a server at work or have been killed.
    """
    url = f"file:{quote(str(path.absolute()))}?mode=ro"
    if is_wal(path):
        has_wal = _size(path.with_name(f"{path.name}-wal")) or path.with_name(f"{path.name}-shm").exists()
        url += "&readonly_shm=1" if has_wal else "&immutable=1"
    db = sqlite3.connect(url, uri=True, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        db.execute("BEGIN")
        db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except BaseException:
        db.close()
        raise
    return db


def is_wal(path: Path) -> bool:
    """Byte 18 of the header is the write version: 2 for WAL (sqlite.org/fileformat.html)."""
    try:
        with path.open("rb") as file:
            return file.read(20)[18:20] == b"\2\2"
    except OSError:
        return False


def _size(path: Path) -> int:
    """In bytes; 0 for a file that is not there."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def sizes(path: Path) -> tuple[int, int]:
    """Of the file and of its -wal, in bytes."""
    return _size(path), _size(path.with_name(f"{path.name}-wal"))


def columns(db: sqlite3.Connection, table: str) -> set[str]:
    """The columns of *table*, none when there is no such table: another version's database has others."""
    return {str(row[1]) for row in db.execute(f"PRAGMA table_info({quoted(table)})")}


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def known_migrations() -> list[str]:
    """This version's migrations, oldest first, by their files: the store itself is not loaded for that."""
    import mcpg

    folder = Path(mcpg.__file__).parent / "store" / "migrations"
    return sorted(file.stem for file in folder.glob("[0-9]*.py"))


def applied_migrations(db: sqlite3.Connection) -> list[str]:
    """What *db* has had applied; [] for an empty one and for one that is not a control plane's."""
    if "name" not in columns(db, "tortoise_migrations"):
        return []
    found = db.execute("SELECT name FROM tortoise_migrations WHERE app = 'store' ORDER BY name").fetchall()
    return [str(name) for (name,) in found]
