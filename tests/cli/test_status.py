"""`status`: what runs and what the database holds, without ever writing anything."""

from __future__ import annotations

import json
import os
import re
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from syrupy.assertion import SnapshotAssertion

from mcpg.cli import census, running
from mcpg.machines import enrolment
from mcpg.present.instances import derived_state
from mcpg.wire.base import rfc3339

from .fake import SILENT, Ctl, Fake, data

META = {
    "version": "0.1.0",
    "replica": "r-1",
    "auth_mode": "none",
    "external_url": "http://cp.test",
    "agents_connected": 2,
}


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
        CREATE TABLE operation (machine TEXT, kind TEXT, state TEXT);
        CREATE TABLE instance (id TEXT, spec TEXT, deleted_at INTEGER, orphaned_at INTEGER);
        CREATE TABLE agent (instance_id TEXT, replica INTEGER, state TEXT);
        CREATE TABLE cluster (state TEXT);
        CREATE TABLE journal (id INTEGER PRIMARY KEY, at INTEGER);
        CREATE TABLE "odd ""name" (x);
        INSERT INTO operation VALUES ('provision', 'create', 'ready'), ('provision', 'update', 'ready'),
            ('provision', 'create', 'failed'), ('teardown', 'delete', 'deleted');
        INSERT INTO instance VALUES ('a', '{"replicas": 1}', NULL, NULL), ('b', '{"replicas": 2}', NULL, 5),
            ('gone', '{"replicas": 1}', 1, 1);
        INSERT INTO agent VALUES ('a', 1, 'online'), ('b', 1, 'online'), ('b', 2, 'stale'), ('gone', 1, 'departed');
        INSERT INTO cluster VALUES ('registered'), ('registered'), ('draining');
        """
    )
    db.executemany("INSERT INTO journal VALUES (?, ?)", [(n, int((time.time() - 250 + n) * 1e6)) for n in range(1, 5)])
    db.commit()
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
            "provisioner": "local",
            "gateway": "mcpg 0.1.0-beta.36",
            "db_path": str(state / "cp-state.db"),
        } | more
        (state / "server.json").write_text(json.dumps(facts))
        return facts

    return write


def shown(text: str, state: Path) -> str:
    """The same in every run."""
    text = text.replace(str(state), "STATE").replace(f"pid {os.getpid()}", "pid PID")
    text = re.sub(r"[\d.]+ [KM]?i?B( \([\d.]+ [KM]?i?B of it -wal\))?", r"SIZE", text)
    return re.sub(r"\d+(\.\d)?m?s$", "DURATION", re.sub(r"asked \S+( ago)?\)", "asked AGE)", text), flags=re.MULTILINE)


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


def test_the_numbers_are_those_of_the_database(ctl: Ctl, state: Path, database: sqlite3.Connection) -> None:
    found = ctl("status", "-o", "json").json
    rows = {"agent": 4, "cluster": 3, "instance": 3, "journal": 4, 'odd "name': 0, "operation": 4}
    assert found["rows"] == rows
    assert found["operations"] == {"deleted": 1, "failed": 1, "ready": 2}
    assert found["operations_by_kind"] == {
        "provision create": {"failed": 1, "ready": 1},
        "provision update": {"ready": 1},
        "teardown delete": {"deleted": 1},
    }
    assert (found["instances"], found["orphans"]) == ({"online": 1, "stale": 1}, 1)
    assert found["clusters"] == {"draining": 1, "registered": 2}
    assert (found["agents"], found["journal_length"]) == ({"online": 2, "stale": 1}, 4)
    newest = database.execute("SELECT max(at) FROM journal").fetchone()[0]
    assert found["journal_newest_at"] == rfc3339(datetime.fromtimestamp(newest / 1e6, UTC))
    size, wal = ((state / name).stat().st_size for name in ("cp-state.db", "cp-state.db-wal"))
    assert (found["database"]["size_bytes"], found["database"]["wal_bytes"]) == (size + wal, wal)
    assert wal > 0


@pytest.mark.parametrize("output", ["table", "wide"])
def test_server_down(
    ctl: Ctl, state: Path, database: sqlite3.Connection, snapshot: SnapshotAssertion, output: str
) -> None:
    ran = ctl("status", "-o", output)
    assert ran.code == 0
    assert shown(ran.out, state) == snapshot


@pytest.mark.parametrize("output", ["table", "wide"])
def test_server_up(
    *,
    ctl: Ctl,
    fake: Fake,
    database: sqlite3.Connection,
    record: Callable[..., dict[str, Any]],
    state: Path,
    snapshot: SnapshotAssertion,
    output: str,
) -> None:
    record()
    fake.says("GET", "/v1/meta", data(META))
    ran = ctl("status", "-o", output)
    assert (ran.code, shown(ran.out, state)) == (0, snapshot)
    assert ctl("status", "-o", "name").out == f"{fake.url}\n"


def test_one_that_runs_and_cannot_do_its_work_says_why(
    ctl: Ctl, fake: Fake, record: Callable[..., dict[str, Any]]
) -> None:
    """With its PostgreSQL down it answers /v1/meta all the same."""
    record()
    fake.says("GET", "/v1/meta", data(META))
    away = "the database does not answer: ConnectionRefusedError"
    for answer, ready, why in (
        (data({"ready": False, "checks": {"database": away, "writes": "ok"}}, status=503), False, f"database: {away}"),
        (data({"ready": True, "checks": {"database": "ok", "writes": "ok"}}), True, None),
        (data({"code": "not_found", "title": "of an older version"}, status=404), None, None),
    ):
        fake.says("GET", "/readyz", answer)
        control = ctl("status", "-o", "json").json["control_plane"]
        assert (control["state"], control["ready"], control["not_ready"]) == ("running", ready, why)
        lines = ctl("status").out.splitlines()
        assert lines[0].endswith(", NOT READY") == (why is not None)
        assert (f"  Not ready      {why}; mcpg-ctl doctor" in lines) == (why is not None)
    fake.says("GET", "/readyz", SILENT)
    control = ctl("status", "-o", "json").json["control_plane"]
    assert (control["ready"], control["not_ready"].startswith("/readyz does not answer (")) == (None, True)


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
    assert ctl("status", "-o", "json").json["agents"] == {"online": 2, "stale": 1}


def test_a_file_that_is_no_database(ctl: Ctl, state: Path) -> None:
    state.mkdir()
    (state / "cp-state.db").write_text("this is not a database, it is a text" * 100)
    ran = ctl("status", "-o", "json")
    assert (ran.code, ran.error["cause"]) == (1, "file is not a database")
    assert (ran.json["control_plane"]["state"], ran.json["database"]["error"]) == ("stopped", "file is not a database")
    assert ctl("status").out.splitlines()[2:] == ["  cannot be read  file is not a database"]


def test_a_database_in_use_is_read_beside_its_writer(ctl: Ctl, database: sqlite3.Connection) -> None:
    """A transaction that is open and not committed neither blocks it nor counts."""
    database.execute("BEGIN IMMEDIATE")
    database.execute("INSERT INTO journal VALUES (99, 0)")
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
        "import os, sys; from mcpg.cli import census, database; from pathlib import Path; os.geteuid() or os.setuid(65534); "
        "print(census.take(database.place('', Path(sys.argv[1]), {}))[0]['journal_length'])"
    )
    ran = subprocess.run([sys.executable, "-c", code, str(state)], capture_output=True, text=True, check=True)
    assert (ran.stdout, ran.stderr) == ("4\n", "")


def test_nobody_says_who_is_connected_when_no_server_answers(
    ctl: Ctl, database: sqlite3.Connection, record: Callable[..., dict[str, Any]], fake: Fake
) -> None:
    def connected() -> str:
        return next(line.strip() for line in ctl("status").out.splitlines() if "connected" in line)

    assert connected() == "connected      unknown, server down"
    record(http_url="http://127.0.0.1:9")
    assert connected() == "connected      unknown, server silent"
    record()
    fake.says("GET", "/v1/meta", data({key: value for key, value in META.items() if key != "agents_connected"}))
    assert connected() == "connected      unknown, the server does not say"
    fake.says("GET", "/v1/meta", data(META))
    assert connected().startswith("connected      2  (asked now)")


def test_a_server_that_hangs_is_silent(ctl: Ctl, record: Callable[..., dict[str, Any]], impatient: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        record(http_url=f"http://127.0.0.1:{sock.getsockname()[1]}")
        control = ctl("status", "-o", "json").json["control_plane"]
    words = f"server.json names pid {os.getpid()}, which lives and gives no answer of its own"
    assert (control["state"], control["agents_connected"], control["answered_at"], control["evidence"]) == (
        "silent",
        None,
        None,
        words,
    )


def test_a_process_that_ended_and_was_not_asked_how_is_dead(record: Callable[..., dict[str, Any]], state: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    record(pid=process.pid, start_ticks=None)
    assert running.look(state).state == "stale"
    process.wait()


AGENTS = st.lists(st.tuples(st.integers(1, 3), st.sampled_from([each.value for each in enrolment.State])), max_size=4)


@given(AGENTS, st.integers(1, 3))
def test_an_instance_is_in_the_state_that_the_server_would_say(agents: list[tuple[int, str]], replicas: int) -> None:
    rows = [{"replica": replica, "state": state} for replica, state in agents]
    found = census.instances_by_state([("i", replicas)], [("i", replica, state) for replica, state in agents])
    assert found == {derived_state(rows, replicas): 1}


async def test_the_server_counts_its_open_channels(start_plane: Any, tmp_path: Path) -> None:
    """The field that `connected` is read from, of a real server."""
    async with start_plane(tmp_path / "another") as plane:
        answer = await plane.client.get("/v1/meta")
        assert (answer.json()["agents_connected"], len(plane.control.sessions)) == (0, 0)
        skew = parsedate_to_datetime(answer.headers["date"]).timestamp() - time.time()
        assert abs(skew) < 5
