"""`doctor` on the state directory and its database: each check made to fail for real, and to pass."""

from __future__ import annotations

import json
import os
import shlex
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mcpg.cli import database as reading
from mcpg.cli.checks import state as checks
from mcpg.cli.checks.facts import Facts
from mcpg.cli.commands import COMMANDS
from mcpg.cli.parse import parse
from mcpg.cli.resolve import values
from mcpg.store.database import known_migrations, sqlite_path

from .doctoring import *  # noqa: F403  fixtures
from .doctoring import Examine, Said
from .fake import Fake, data

OUTSIDER = 65534


def facts(*flags: str) -> Facts:
    return Facts(values(parse("mcpg-ctl", ["doctor", *flags], COMMANDS)))


AS_NOBODY = """
import json, os, sys
from mcpg.cli.checks import state
from mcpg.cli.checks.facts import Facts
from mcpg.cli.commands import COMMANDS
from mcpg.cli.parse import parse
from mcpg.cli.resolve import values
facts = Facts(values(parse("mcpg-ctl", ["doctor", "--context", "none", "--state-dir", sys.argv[2]], COMMANDS)))
if os.geteuid() == 0:  # all that is imported is imported by now: the checkout may be closed to others
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
print(json.dumps(getattr(state, sys.argv[1])(facts)))
"""


def as_nobody(check: str, state: Path) -> Said:
    """One check's verdict for a user who is neither root nor the owner."""
    ran = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, check, str(state)], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    return Said(*json.loads(ran.stdout))


def open_to_all(path: Path) -> None:
    """Lets everybody pass through what lies above *path*."""
    for folder in path.parents:
        if folder.stat().st_uid == os.geteuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)


# ---- the directory


def test_a_directory_that_is_not_there_yet(examine: Examine, state: Path) -> None:
    assert examine("state") == Said("pass", f"{state} is not there yet: the first start makes it", "")
    assert not state.exists()


def test_a_directory_of_our_own(examine: Examine, state: Path) -> None:
    state.mkdir(mode=0o700)
    assert examine("state") == Said("pass", f"{state}, 0700", "")


@pytest.mark.parametrize(
    ("mode", "status", "words"),
    [(0o755, "warn", "others can see what is in it"), (0o770, "fail", "others can replace what is in it")],
)
def test_a_directory_that_others_can_enter(examine: Examine, state: Path, mode: int, status: str, words: str) -> None:
    state.mkdir()
    state.chmod(mode)
    assert examine("state") == Said(status, f"{state} has mode {mode:04o}: {words}", f"chmod 700 {state}")


def test_a_file_where_the_directory_should_be(examine: Examine, state: Path) -> None:
    state.write_text("")
    assert examine("state") == Said("fail", f"{state} is no directory", f"mv {state} {state}.old")


def test_a_directory_of_somebody_else(state: Path) -> None:
    state.mkdir()
    open_to_all(state)
    state.chmod(0o777)
    said = as_nobody("directory", state)
    assert said.status == ("fail" if os.geteuid() == 0 else "warn")
    assert os.geteuid() or said.detail == f"{state} belongs to uid 0, and this is uid {OUTSIDER}"
    assert os.geteuid() or said.fix == f"sudo chown -R {OUTSIDER} {state}"


def test_a_directory_that_could_not_be_made(tmp_path: Path) -> None:
    open_to_all(tmp_path / "x")
    tmp_path.chmod(0o555)
    said = as_nobody("directory", tmp_path / "none" / "state")
    words = f"{tmp_path}/none/state is not there, and {tmp_path} may not be written"
    assert said == Said("fail", words, "mcpg-ctl doctor --state-dir ~/.mcpg")


def test_a_directory_that_cannot_be_written(state: Path) -> None:
    state.mkdir()
    open_to_all(state)
    os.chown(state, OUTSIDER, OUTSIDER)
    state.chmod(0o500)
    assert as_nobody("directory", state) == Said(
        "fail", f"{state} has mode 0500 and cannot be written", f"chmod 700 {state}"
    )


def test_there_is_room(examine: Examine) -> None:
    said = examine("disk")
    assert (said.status, " free at " in said.detail) == ("pass", True)


@pytest.mark.parametrize(("limit", "status"), [("FREE_LOW", "warn"), ("FREE_NONE", "fail")])
def test_a_disk_that_is_nearly_full(
    examine: Examine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, status: str
) -> None:
    """This disk, measured against a limit above what it has free."""
    monkeypatch.setattr(checks, limit, 1 << 62)
    said = examine("disk")
    assert (said.status, f"free at {tmp_path}" in said.detail) == (status, True)
    assert said.fix == f"du -xh --max-depth=1 {tmp_path}/state | sort -h"


def test_a_local_file_system(examine: Examine) -> None:
    said = examine("filesystem")
    assert (said.status, " at /" in said.detail) == ("pass", True)


def test_a_network_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """/proc/mounts as it would be with one mounted, its blank written in octal."""
    (tmp_path / "mounts").write_text(
        f"/dev/vda / ext4 rw 0 0\nsrv:/x {tmp_path}/my\\040share nfs4 rw 0 0\nproc /proc proc rw 0 0\n"
    )
    monkeypatch.setattr(checks, "MOUNTS", tmp_path / "mounts")
    where = tmp_path / "my share" / "state"
    where.mkdir(parents=True)
    said = Said(*checks.filesystem(facts("--state-dir", str(where))))
    words = f"{where} is on nfs4 ({tmp_path}/my share): a database in WAL mode may be damaged there"
    assert said == Said("fail", words, "mcpg-ctl serve --state-dir /var/lib/mcpg")
    assert checks.filesystem(facts("--state-dir", str(tmp_path))).detail == "ext4 at /"


# ---- the database


@pytest.mark.parametrize("check", ["database", "schema", "journal-mode", "journal-time", "states", "orphans"])
def test_no_database_is_nothing_to_check(examine: Examine, state: Path, check: str) -> None:
    assert examine(check) == Said("skip", f"none yet at {state}/cp-state.db", "")


@pytest.mark.parametrize("check", ["database", "schema", "journal-mode", "journal-time"])
def test_a_database_that_is_no_file_is_its_servers_to_check(examine: Examine, check: str) -> None:
    """And its password is not shown."""
    said = examine(check, "--db-url", "postgres://ada:canary@db.test:5432/mcpg?sslmode=require")
    assert said == Said("skip", "postgres://db.test:5432/mcpg is no SQLite file: only its server reads it", "")


def test_a_database_that_is_no_file_is_on_no_filesystem_here(examine: Examine) -> None:
    assert examine("filesystem", "--db-url", "postgres://db.test/mcpg") == Said(
        "skip", "postgres://db.test/mcpg is no file here", ""
    )


def test_a_server_on_a_database_that_is_no_file_says_so_in_its_record(tmp_path: Path) -> None:
    """Without --db-url the record is believed, and what it names is not taken for a path."""
    found = reading.place("", tmp_path, {"db_path": "postgres://ada:canary@db.test:5432/mcpg"})
    assert found == (None, "postgres://db.test:5432/mcpg")


def test_a_whole_database(examine: Examine, database: sqlite3.Connection, state: Path) -> None:
    said = examine("database")
    assert (said.status, said.detail.startswith(f"{state}/cp-state.db, ")) == ("pass", True)
    assert said.detail.endswith("quick_check ok")


def test_a_file_that_is_no_database(examine: Examine, state: Path) -> None:
    state.mkdir(mode=0o700)
    (state / "cp-state.db").write_text("this is not a database, it is a text" * 100)
    said = examine("database")
    assert said[:2] == ("fail", f"{state}/cp-state.db cannot be read as a database: file is not a database")


def test_a_damaged_database(examine: Examine, database: sqlite3.Connection, state: Path) -> None:
    """A page of an index, overwritten as a failing disk would."""
    path = state / "cp-state.db"
    page = database.execute(
        "SELECT rootpage FROM sqlite_master WHERE tbl_name = 'journal' AND type = 'index'"
    ).fetchone()[0]
    size = database.execute("PRAGMA page_size").fetchone()[0]
    database.close()
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)
    said = examine("database")
    assert (said.status, said.detail.startswith(f"{path} is damaged: ")) == ("fail", True)
    assert said.fix == f"sqlite3 {path} .recover | sqlite3 {path}.new"


def test_a_database_too_large_to_check_in_time(database: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    database.execute("CREATE TABLE much (x)")
    database.execute(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) INSERT INTO much SELECT i FROM n"
    )
    monkeypatch.setattr(checks, "QUICK_CHECK_S", 0.0)
    said = checks.content(facts())
    assert (said.status, said.detail.endswith("opens; too large to check in 0 s")) == ("pass", True)


def test_a_locked_database(examine: Examine, database: sqlite3.Connection, state: Path) -> None:
    database.execute("PRAGMA journal_mode = delete")
    database.execute("BEGIN EXCLUSIVE")
    said = examine("database")
    assert said[:2] == ("fail", f"{state}/cp-state.db cannot be read as a database: database is locked")


def test_a_current_schema(examine: Examine, database: sqlite3.Connection) -> None:
    count = len(known_migrations())
    assert examine("schema") == Said("pass", f"{count} of {count} migrations", "")
    assert reading.known_migrations() == known_migrations()


def test_an_old_schema_is_brought_up_by_the_next_start(examine: Examine, database: sqlite3.Connection) -> None:
    database.execute("DELETE FROM tortoise_migrations")
    database.execute("INSERT INTO tortoise_migrations (app, name, applied_at) VALUES ('store', '0001_initial', 0)")
    newer = len(known_migrations()) - 1
    expected = f": the next start brings it to {newer + 1}" if newer else ""
    assert examine("schema") == Said("pass", f"1 of {newer + 1} migrations{expected}", "")


def test_a_newer_schema(examine: Examine, database: sqlite3.Connection, state: Path) -> None:
    database.execute("INSERT INTO tortoise_migrations (app, name, applied_at) VALUES ('store', '9999_future', 0)")
    words = f"{state}/cp-state.db was written by a newer version: it has 9999_future, this one knows up to"
    said = examine("schema")
    assert said == Said("fail", f"{words} {known_migrations()[-1]}", "pip install --upgrade mcpg-control-plane")


def test_somebody_elses_database(examine: Examine, state: Path) -> None:
    state.mkdir(mode=0o700)
    with sqlite3.connect(state / "cp-state.db") as db:
        db.execute("CREATE TABLE recipe (cake)")
    db.close()
    said = examine("schema")
    assert said[:2] == ("fail", f"{state}/cp-state.db is not a control plane's database")


def test_an_empty_file_is_filled_by_the_first_start(examine: Examine, state: Path) -> None:
    state.mkdir(mode=0o700)
    (state / "cp-state.db").write_bytes(b"")
    assert examine("schema") == Said("pass", "empty: the first start fills it", "")
    assert examine("journal-mode") == Said("skip", "the database is empty", "")


@pytest.mark.parametrize(
    ("directory", "url"),
    [
        ("/s", ""),
        ("/s", "sqlite:///abs/x.db?mode=rwc"),
        ("/s", "sqlite:rel.db"),
        ("/s", "sqlite://rel.db"),
        ("/s", "sqlite:~/x"),
    ],
)
def test_a_url_names_the_file_that_the_server_would_take(directory: str, url: str) -> None:
    found = reading.place(url, Path(directory), {})
    assert (found.path, found.shown) == (sqlite_path(url, Path(directory)), str(found.path))


def test_wal_mode(examine: Examine, database: sqlite3.Connection) -> None:
    assert examine("journal-mode") == Said("pass", "wal", "")


def test_another_journal_mode_while_a_server_runs(
    examine: Examine, database: sqlite3.Connection, state: Path, live: None
) -> None:
    database.execute("PRAGMA journal_mode = delete")
    words = f"{state}/cp-state.db is not in WAL mode: every read waits for every write"
    assert examine("journal-mode") == Said("warn", words, f"sqlite3 {state}/cp-state.db 'PRAGMA journal_mode = wal'")
    (state / "server.json").unlink()
    assert examine("journal-mode") == Said("pass", "not wal: the next start sets it", "")


def a_line(database: sqlite3.Connection, at: float) -> None:
    names = [row[1] for row in database.execute("PRAGMA table_info(journal)")]
    filled = {"id": 1, "seq": 1, "at": int(at * 1e6)}
    database.execute(
        f"INSERT INTO journal VALUES ({', '.join('?' * len(names))})",  # noqa: S608
        [filled.get(name, "") for name in names],
    )


def test_a_journal_without_a_line(examine: Examine, database: sqlite3.Connection) -> None:
    assert examine("journal-time") == Said("pass", "no line yet", "")


def test_a_journal_of_now(examine: Examine, database: sqlite3.Connection) -> None:
    a_line(database, time.time() - 3 * 3600)
    assert examine("journal-time") == Said("pass", "the newest line is 3h0m old", "")


def test_a_journal_of_the_future(examine: Examine, database: sqlite3.Connection) -> None:
    a_line(database, time.time() + 3600 * 2 + 30)
    words = "the newest line is 2h0m in the future: a clock was wrong"
    assert examine("journal-time") == Said("warn", words, "timedatectl status")


# ---- server.json


@pytest.fixture
def live(state: Path, fake: Fake) -> None:
    """server.json of a control plane that answers: this process, with the fake's port."""
    ticks = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    card = {"pid": os.getpid(), "start_ticks": int(ticks), "http_url": fake.url, "grpc_url": fake.url, "replica": "r-1"}
    state.mkdir(exist_ok=True, mode=0o700)
    (state / "server.json").write_text(json.dumps(card | {"auth_mode": "none"}))
    fake.says("GET", "/v1/meta", data({"version": "0.1.0", "replica": "r-1", "pid": os.getpid()}))


def test_nothing_runs(examine: Examine) -> None:
    assert examine("server-record") == Said("pass", "no control plane runs on this directory", "")


def test_a_record_that_is_true(examine: Examine, live: None, fake: Fake) -> None:
    said = examine("server-record")
    assert (said.status, said.detail.startswith(f"pid {os.getpid()} at {fake.url}, answers in ")) == ("pass", True)


def test_a_record_of_the_dead(examine: Examine, live: None, state: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        pass
    card = json.loads((state / "server.json").read_text())
    (state / "server.json").write_text(json.dumps(card | {"pid": dead.pid}))
    words = f"pid {dead.pid} ended without stopping: its gateways run on, and nobody looks after them"
    assert examine("server-record") == Said("warn", words, f"mcpg-ctl serve --state-dir {state}")


def test_a_record_of_one_that_does_not_answer(examine: Examine, live: None, fake: Fake) -> None:
    fake.says("GET", "/v1/meta", data({"version": "0.1.0", "replica": "another"}))
    words = f"pid {os.getpid()} lives and does not answer as itself at {fake.url}"
    assert examine("server-record") == Said("fail", words, f"kill {os.getpid()}")


# ---- the gateway agent of the directory


def test_no_gateway_has_run_here(examine: Examine) -> None:
    assert examine("gateway-agent") == Said("skip", "no gateway has run with this state directory", "")


def test_an_agent_that_stopped_cleanly_leaves_nothing(examine: Examine, state: Path) -> None:
    (state / "gateway-agent").mkdir(parents=True)
    assert examine("gateway-agent") == Said("pass", "not running, nothing left over", "")


def test_an_agent_that_was_killed_is_run_again_as_it_was(examine: Examine, state: Path) -> None:
    command = ["mcpg-ctl", "gateway", "--state-dir", str(state), "--exec", "mcpg", "--config", "/my files/gateway.yaml"]
    (state / "gateway-agent").mkdir(parents=True)
    (state / "gateway-agent/running.json").write_text(json.dumps({"pid": 1, "started": "0", "command": command}))
    words, fix = "the agent did not stop cleanly and does not run", shlex.join(command)
    assert examine("gateway-agent") == Said("warn", words, fix)
