"""`status`: what runs and what the database holds, without ever writing anything."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion

from mcpg.cli import render, running
from mcpg.wire.base import rfc3339

from .fake import Ctl, Fake, data

META = {"version": "0.1.0", "replica": "r-1", "auth_mode": "none", "external_url": "http://cp.test"}


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def database(state: Path) -> Iterator[sqlite3.Connection]:
    """A database as a stopped server leaves it, in WAL mode."""
    state.mkdir()
    db = sqlite3.connect(state / "cp-state.db")
    db.execute("PRAGMA journal_mode = wal")
    db.executescript(
        """
        CREATE TABLE operation (id TEXT, state TEXT);
        CREATE TABLE instance (id TEXT, deleted_at INTEGER);
        CREATE TABLE agent (instance_id TEXT, state TEXT);
        CREATE TABLE journal (seq INTEGER PRIMARY KEY AUTOINCREMENT);
        CREATE TABLE "odd ""name" (x);
        INSERT INTO operation VALUES ('a', 'ready'), ('b', 'ready'), ('c', 'failed');
        INSERT INTO instance VALUES ('a', NULL), ('gone', 1);
        INSERT INTO agent VALUES ('a', 'online'), ('gone', 'departed');
        INSERT INTO journal VALUES (1), (2), (3), (4);
        """
    )
    yield db
    db.close()


def start_ticks(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


@pytest.fixture
def record(state: Path, fake: Fake) -> Callable[..., dict[str, Any]]:
    """Writes server.json as the server does, by default for a control plane that is this process."""

    def write(**more: Any) -> dict[str, Any]:
        state.mkdir(exist_ok=True)
        facts = {
            "pid": os.getpid(),
            "start_ticks": start_ticks(os.getpid()),
            "http_url": fake.url,
            "grpc_url": "http://127.0.0.1:7844",
            "external_url": fake.url,
            "version": "0.1.0",
            "replica": "r-1",
            "started_at": rfc3339(datetime.fromtimestamp(time.time(), UTC) - timedelta(minutes=3, seconds=20)),
            "auth_mode": "none",
            "db_path": str(state / "cp-state.db"),
        } | more
        (state / "server.json").write_text(json.dumps(facts))
        return facts

    return write


def files(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]} if folder.exists() else {}


def test_nothing_there_yet(ctl: Ctl, state: Path, snapshot: SnapshotAssertion) -> None:
    ran = ctl("status")
    assert (ran.code, ran.err, state.exists()) == (0, "", False)
    assert ran.out.replace(str(state), "STATE") == snapshot


def test_json_has_the_same_keys_whatever_runs(
    ctl: Ctl,
    fake: Fake,
    database: sqlite3.Connection,
    record: Callable[..., dict[str, Any]],
    snapshot: SnapshotAssertion,
) -> None:
    """Nothing at all, a database alone, everything."""

    def shape(found: Any) -> Any:
        return {key: shape(value) for key, value in found.items()} if isinstance(found, dict) else "…"

    nothing = ctl("status", "-o", "json", "--state-dir", "/nonexistent").json
    database_only = ctl("status", "-o", "json").json
    record()
    fake.says("GET", "/v1/meta", data(META))
    everything = ctl("status", "-o", "json").json
    assert shape(nothing) == snapshot
    assert [set(each) for each in (nothing, database_only, everything)] == [set(nothing)] * 3
    assert set(nothing["control_plane"]) == set(everything["control_plane"])


def test_the_numbers_are_those_of_the_database(ctl: Ctl, database: sqlite3.Connection) -> None:
    found = ctl("status", "-o", "json").json
    assert found["rows"] == {"agent": 2, "instance": 2, "journal": 4, 'odd "name': 0, "operation": 3}
    counts = (found["operations"], found["agents"], found["journal_length"])
    assert counts == ({"failed": 1, "ready": 2}, {"online": 1}, 4)
    assert found["database"]["size_bytes"] > 0


@pytest.mark.parametrize("output", ["table", "wide"])
def test_server_down(
    ctl: Ctl, state: Path, database: sqlite3.Connection, snapshot: SnapshotAssertion, output: str
) -> None:
    ran = ctl("status", "-o", output)
    size = ctl("status", "-o", "json").json["database"]["size_bytes"]
    assert ran.code == 0
    assert ran.out.replace(str(state), "STATE").replace(render.size(size), "SIZE") == snapshot


def test_server_up(
    ctl: Ctl, fake: Fake, record: Callable[..., dict[str, Any]], state: Path, snapshot: SnapshotAssertion
) -> None:
    record()
    fake.says("GET", "/v1/meta", data(META))
    ran = ctl("status")
    shown = ran.out.replace(str(state), "STATE").replace(f"pid {os.getpid()}", "pid PID")
    assert (ran.code, shown) == (0, snapshot)
    assert ctl("status", "-o", "name").out == f"{fake.url}\n"


@pytest.mark.parametrize(
    ("facts", "meta", "expected"),
    [
        ({}, META, "running"),
        ({}, META | {"replica": "another"}, "silent"),
        ({}, None, "silent"),
        ({"start_ticks": 1}, META, "stale"),
        ({"pid": 0}, META, "stale"),
        ({"pid": None}, META, "stale"),
        ({"http_url": "nonsense"}, META, "silent"),
    ],
    ids=["running", "another replica", "no answer", "pid used again", "pid 0", "no pid", "no URL"],
)
def test_the_record_is_believed_as_far_as_it_can_be_checked(
    *,
    fake: Fake,
    record: Callable[..., dict[str, Any]],
    tmp_path: Path,
    facts: dict[str, Any],
    meta: dict[str, Any] | None,
    expected: str,
) -> None:
    record(**facts)
    if meta is not None:
        fake.says("GET", "/v1/meta", data(meta))
    assert running.look(tmp_path / "state").state == expected


@pytest.mark.parametrize("text", ["", "{", "[]", "\xff"])
def test_a_broken_record_is_no_record(state: Path, text: str) -> None:
    state.mkdir()
    (state / "server.json").write_text(text, "latin-1")
    assert running.look(state).state == "stopped"


@pytest.mark.parametrize("facts", [{"start_ticks": 1}, {"http_url": "http://127.0.0.1:9"}], ids=["stale", "silent"])
def test_what_does_not_run_says_so(ctl: Ctl, record: Callable[..., dict[str, Any]], facts: dict[str, Any]) -> None:
    record(**facts)
    first = ctl("status").out.splitlines()[0].replace(str(os.getpid()), "PID")
    assert first in (
        "control plane    not running (it did not stop cleanly)",
        "control plane    pid PID lives and does not answer at http://127.0.0.1:9",
    )
    control = ctl("status", "-o", "json").json["control_plane"]
    assert control["pid"] == (os.getpid() if control["state"] == "silent" else None)


def test_agents_of_deleted_gateways_are_not_counted(ctl: Ctl, database: sqlite3.Connection) -> None:
    assert ctl("status", "-o", "json").json["agents"] == {"online": 1}


def test_a_file_that_is_no_database(ctl: Ctl, state: Path) -> None:
    state.mkdir()
    (state / "cp-state.db").write_text("this is not a database, it is a text" * 100)
    ran = ctl("status")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.splitlines()[1] == "cause: file is not a database"


def test_a_database_in_use_is_read_beside_its_writer(ctl: Ctl, database: sqlite3.Connection) -> None:
    """A transaction that is open and not committed neither blocks it nor counts."""
    database.execute("BEGIN IMMEDIATE")
    database.execute("INSERT INTO journal VALUES (99)")
    assert ctl("status", "-o", "json").json["journal_length"] == 4


def test_nothing_is_written(ctl: Ctl, database: sqlite3.Connection, state: Path) -> None:
    database.close()  # the last connection: the WAL is folded in and gone
    before = files(state)
    ctl("status")
    assert {name: at for name, at in files(state).items() if name != str(state)} == {
        name: at for name, at in before.items() if name != str(state)
    }


def test_a_directory_that_cannot_be_written_is_read_all_the_same(
    database: sqlite3.Connection, state: Path, tmp_path: Path
) -> None:
    database.close()
    for folder in (state, *state.parents):
        if folder.stat().st_uid == os.geteuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    state.chmod(0o555)  # for somebody who is not root and so stays who they are
    code = (
        "import os, sys; from mcpg.cli import status; from pathlib import Path; os.geteuid() or os.setuid(65534); "
        "print(status.statistics(Path(sys.argv[1]))['journal_length'])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(state / "cp-state.db")], capture_output=True, text=True, check=True
    )
    assert (ran.stdout, ran.stderr) == ("4\n", "")
