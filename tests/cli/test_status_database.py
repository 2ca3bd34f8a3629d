"""`status`: which database it reads, and what it says of one that is not as it should be."""

# ruff: noqa: F811  fixtures are imported under the names by which tests ask for them
from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .fake import Ctl, Fake, data
from .test_status import META, database, record, state  # noqa: F401  fixtures


def test_the_database_that_the_running_server_says_it_has(
    ctl: Ctl,
    fake: Fake,
    record: Callable[..., dict[str, Any]],
    database: sqlite3.Connection,
    state: Path,
    tmp_path: Path,
) -> None:
    database.close()
    (state / "cp-state.db").rename(tmp_path / "elsewhere.db")
    record(db_path=str(tmp_path / "elsewhere.db"))
    fake.says("GET", "/v1/meta", data(META))
    found = ctl("status", "-o", "json").json
    assert (found["database"]["path"], found["journal_length"]) == (str(tmp_path / "elsewhere.db"), 4)


@pytest.mark.parametrize("way", ["flag", "MCPG_CP_DB_URL", "MCPG_CONTROL_PLANE_DB_URL"])
def test_the_database_that_was_asked_for(
    *,
    ctl: Ctl,
    record: Callable[..., dict[str, Any]],
    database: sqlite3.Connection,
    state: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
) -> None:
    database.close()
    path = tmp_path / "with space.db"
    (state / "cp-state.db").rename(path)
    record(db_path=str(state / "cp-state.db"))
    url = f"sqlite://{path}?mode=rwc"
    if way != "flag":
        monkeypatch.setenv(way, url)
    found = ctl("status", "-o", "json", *(["--db-url", url] if way == "flag" else [])).json
    assert (found["database"]["path"], found["journal_length"]) == (str(path), 4)


@pytest.mark.parametrize("output", ["table", "json"])
def test_a_database_that_is_no_file(ctl: Ctl, output: str) -> None:
    """Its password is not shown, and nothing is counted that only its server can count."""
    ran = ctl("status", "-o", output, "--db-url", "postgres://ada:canary@db.test:5432/mcpg?password=canary")
    why = "it is no SQLite file: only its server can count what it holds"
    assert (ran.code, ran.err, "canary" in ran.out) == (0, "", False)
    if output == "table":
        assert ran.out.splitlines()[1:] == [f"database         postgres://db.test:5432/mcpg: {why}"]
    else:
        assert (ran.json["database"]["error"], ran.json["journal_length"]) == (why, None)


def test_a_locked_database(ctl: Ctl, database: sqlite3.Connection) -> None:
    database.execute("PRAGMA journal_mode = delete")
    database.execute("BEGIN EXCLUSIVE")
    ran = ctl("status", "-o", "json")
    assert (ran.code, ran.error["cause"], ran.json["database"]["error"]) == (
        1,
        "database is locked",
        "database is locked",
    )


def test_an_empty_file(ctl: Ctl, state: Path) -> None:
    state.mkdir()
    (state / "cp-state.db").write_bytes(b"")
    ran = ctl("status")
    assert (ran.code, ran.out.splitlines()[2:]) == (0, ["  empty          no table yet"])


def test_a_database_of_a_later_version(ctl: Ctl, state: Path, migrated: Path) -> None:
    """What both versions know is counted all the same."""
    state.mkdir()
    shutil.copy(migrated, state / "cp-state.db")
    with contextlib.closing(sqlite3.connect(state / "cp-state.db")) as db, db:
        db.execute("INSERT INTO tortoise_migrations (app, name, applied_at) VALUES ('store', '9999_future', 0)")
        db.execute("ALTER TABLE cluster RENAME COLUMN state TO condition")
    found = ctl("status", "-o", "json").json
    assert (found["database"]["newer_schema"], found["clusters"], found["operations"]) == (["9999_future"], {}, {})
    lines = ctl("status").out.splitlines()
    assert lines[2] == "  newer schema   written by a later version: 9999_future"


def test_a_log_without_its_index_is_not_read_past(ctl: Ctl, database: sqlite3.Connection, state: Path) -> None:
    """Without the -shm nothing can be read that is not written first; the -wal holds what the file alone does not."""
    wal = (state / "cp-state.db-wal").read_bytes()
    database.close()
    (state / "cp-state.db-wal").write_bytes(wal)
    ran = ctl("status", "-o", "json")
    assert (ran.code, ran.error["hint"]) == (
        1,
        "cp-state.db-wal lies there without its -shm: mcpg-ctl serve folds it in",
    )
    assert sorted(path.name for path in state.iterdir()) == ["cp-state.db", "cp-state.db-wal"]


def test_a_spec_that_is_no_json_is_counted_as_one_replica(ctl: Ctl, database: sqlite3.Connection) -> None:
    with database:
        database.execute("UPDATE instance SET spec='{' WHERE id='b'")
    found = ctl("status", "-o", "json").json
    assert found["database"]["error"] == ""
    assert sum(found["instances"].values()) == 2
