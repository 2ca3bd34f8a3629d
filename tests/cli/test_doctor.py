"""`doctor` as a whole: how it looks, that it changes nothing, and that nothing can hold it up."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion

from mcpg.cli import doctor
from mcpg.cli.checks.facts import Facts, Skip, Verdict, good
from mcpg.cli.commands import COMMANDS
from mcpg.cli.parse import parse
from mcpg.cli.resolve import values
from mcpg.errors import McpgError
from tests.bounds import BOUND_S
from tests.ports import free_port

from .doctoring import *  # noqa: F403  fixtures
from .fake import Ctl, Fake, data, stream
from .test_doctor_machine import program
from .test_startup import HEAVY, modules


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine like any other: one gateway program, no proxy, no browser, default ports that are free."""
    program(tmp_path / "bin", "mcpg", "echo mcpg 0.1.0-beta.36")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    for name in os.environ:
        if name.lower().endswith("_proxy") or name in ("SSH_CONNECTION", "BROWSER"):
            monkeypatch.delenv(name)
    for name in ("BIND_HTTP", "BIND_GRPC"):
        monkeypatch.setenv(f"MCPG_CP_{name}", "127.0.0.1:0")


def shown(text: str, tmp_path: Path) -> str:
    """The same on every machine."""
    python = ".".join(map(str, sys.version_info[:3]))
    text = text.replace(str(tmp_path), "HOME").replace(python, "PYTHON")
    text = re.sub(r"(file-limit +)\S.*", r"\1LIMIT", text)
    text = re.sub(r"[\d.]+ [KMGT]iB free at \S+", "SIZE free at DIRECTORY", text)
    text = re.sub(r"\S+ at /\S*$", "KIND at MOUNT", text, flags=re.MULTILINE)
    return re.sub(r"all \d+ in versions", "all N in versions", text)


def test_a_fresh_machine_has_no_problem(ctl: Ctl, machine: None, tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    ran = ctl("doctor")
    assert (ran.code, ran.err) == (0, "")
    assert shown(ran.out, tmp_path) == snapshot


def test_problems_come_with_their_remedy(
    ctl: Ctl, machine: None, state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, snapshot: SnapshotAssertion
) -> None:
    state.mkdir(mode=0o755)
    (state / "credentials.json").write_text("{}")
    (state / "credentials.json").chmod(0o644)
    monkeypatch.setenv("MCPG_CP_GATEWAY_BIN", "/nonexistent/mcpg")
    ran = ctl("doctor")
    assert (ran.code, ran.err) == (1, "")
    assert shown(ran.out, tmp_path) == snapshot


def test_as_json(ctl: Ctl, machine: None, tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    """The shape and the ids are for scripts, and stay."""
    found = ctl("doctor", "-o", "json").json
    for each in found["checks"]:
        assert isinstance(each.pop("duration_ms"), float)
        assert each.pop("detail")
    assert found == snapshot
    assert [each.id for each in doctor.CHECKS] == [each["id"] for each in found["checks"]]
    assert ctl("doctor", "-o", "name").out.split() == [each.id for each in doctor.CHECKS]


def test_wide_says_how_long_each_took(ctl: Ctl, machine: None) -> None:
    lines = ctl("doctor", "-o", "wide").out.splitlines()
    assert [line for line in lines[:-1] if not re.match(r"  [✓!✗–] [a-z-]+ +([0-9.]+m?s)  \S", line)] == []


def test_words_stand_where_glyphs_cannot(ctl: Ctl, machine: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    lines = ctl("doctor").out.splitlines()
    assert {line[2:6] for line in lines[:-1]} == {"ok  ", "skip"}


def test_words_stand_where_the_encoding_has_no_glyphs(machine: None, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mcpg.cli.main", "doctor", "--gateway-bin", "/nonexistent/mcpg"]
    ran = subprocess.run(command, capture_output=True, check=False, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (ran.returncode, ran.stderr) == (1, b"")
    assert b"  FAIL gateway-binary  " in ran.stdout
    assert ran.stdout.isascii()


@pytest.mark.parametrize(
    ("argv", "code"), [((), 0), (("--strict",), 1), (("--strict", "-o", "json"), 1)], ids=["", "strict", "strict json"]
)
def test_a_note_fails_only_when_asked_to(
    ctl: Ctl, machine: None, state: Path, argv: tuple[str, ...], code: int
) -> None:
    state.mkdir(mode=0o755)
    assert ctl("doctor", *argv).code == code


def test_strict_is_content_when_there_is_nothing_to_say(ctl: Ctl, machine: None) -> None:
    ran = ctl("doctor", "--strict")
    assert (ran.code, ran.out.splitlines()[-1]) == (0, "no problem")


# ---- it changes nothing


def everything(folder: Path) -> dict[str, tuple[object, ...]]:
    """Names, modes, times and contents of all there is."""
    return {
        str(path): (
            path.stat().st_mode,
            path.stat().st_mtime_ns,
            path.is_file() and hashlib.sha256(path.read_bytes()).digest(),
        )
        for path in [folder, *folder.rglob("*")]
    }


KILLED = """
import os, signal, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA journal_mode = wal")
db.execute("INSERT INTO keyring VALUES ('written after the last checkpoint', 'x', 1)")
os.kill(os.getpid(), signal.SIGKILL)
"""


def kill_a_writer(path: Path) -> None:
    """Leaves the -wal and -shm of a server that was killed."""
    subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert path.with_name(f"{path.name}-wal").stat().st_size > 0


@pytest.mark.parametrize("command", ["doctor", "status"])
def test_nothing_is_created_where_there_is_nothing(ctl: Ctl, machine: None, tmp_path: Path, command: str) -> None:
    before = everything(tmp_path)
    assert ctl(command).code == 0
    assert everything(tmp_path) == before


@pytest.mark.parametrize("command", ["doctor", "status"])
def test_what_a_killed_server_left_stays_as_it_is(
    ctl: Ctl, machine: None, database: sqlite3.Connection, state: Path, tmp_path: Path, command: str
) -> None:
    """And is read with what only its -wal holds."""
    database.close()
    kill_a_writer(state / "cp-state.db")
    before = everything(tmp_path)
    assert ctl(command).code == 0
    assert everything(tmp_path) == before
    assert ctl("status", "-o", "json").json["rows"]["keyring"] == 1


@pytest.mark.parametrize("command", ["doctor", "status"])
def test_a_stopped_servers_database_stays_as_it_is(
    ctl: Ctl, machine: None, database: sqlite3.Connection, tmp_path: Path, command: str
) -> None:
    database.close()
    before = everything(tmp_path)
    assert ctl(command).code == 0
    assert everything(tmp_path) == before


def test_only_questions_are_asked(ctl: Ctl, machine: None, answering: Fake) -> None:
    answering.says("GET", "/v1/events", stream(b": hello\n\n", then="hang"))
    ctl("doctor")
    assert {asked.method for asked in answering.asked} == {"GET"}


# ---- nothing can hold it up


@pytest.fixture
def facts(ctl: Ctl) -> Facts:
    return Facts(values(parse("mcpg-ctl", ["doctor"], COMMANDS)))


@pytest.fixture
def held() -> Iterator[threading.Event]:
    """Is set when the test is over, so that what waits for it ends."""
    event = threading.Event()
    yield event
    event.set()


def test_a_check_that_hangs_hangs_alone(facts: Facts, held: threading.Event) -> None:
    def hangs(_facts: Facts) -> Verdict:
        held.wait()
        return good("too late")

    checks = (
        doctor.Check("one", "hangs", hangs),
        doctor.Check("two", "does not", lambda _: good("fine")),
        doctor.Check("three", "hangs", hangs),
    )
    found = doctor.examine(checks, facts, patience_s=2.0)
    assert [(each["status"], each["detail"], each["fix"]) for each in found] == [
        ("warn", "no answer in 2 s", "mcpg-ctl doctor -o wide"),
        ("pass", "fine", ""),
        ("warn", "no answer in 2 s", "mcpg-ctl doctor -o wide"),
    ]


HANGS = """
import sys, threading
from mcpg.cli import doctor, main
doctor.CHECKS = (doctor.Check("one", "hangs", lambda _: threading.Event().wait()),)
doctor.PATIENCE_S = 0.2
sys.argv = ["mcpg-ctl", "doctor", "--strict"]
sys.exit(main.main())
"""


def test_the_programme_ends_while_a_check_still_hangs() -> None:
    ran = subprocess.run([sys.executable, "-c", HANGS], capture_output=True, text=True, check=False, timeout=BOUND_S)
    assert (ran.returncode, ran.stderr, ran.stdout.splitlines()[-1]) == (1, "", "1 note")


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (Skip("why not"), ("skip", "why not", "")),
        (McpgError("what", cause="why", hint="mend"), ("fail", "what: why", "mend")),
        (PermissionError(13, "Permission denied", "/x"), ("fail", "/x: Permission denied", "ls -ld /x")),
        (
            ZeroDivisionError("oops"),
            ("fail", "this check is broken: ZeroDivisionError: oops", "MCPG_DEBUG=1 mcpg-ctl doctor"),
        ),
    ],
    ids=["skip", "error", "system", "bug"],
)
def test_a_check_that_raises_fails_alone(facts: Facts, raised: Exception, expected: tuple[str, str, str]) -> None:
    def raises(_facts: Facts) -> Verdict:
        raise raised

    found = doctor.examine((doctor.Check("one", "raises", raises),), facts, patience_s=5.0)
    assert [(each["status"], each["detail"], each["fix"]) for each in found] == [expected]


def test_a_control_plane_that_hangs_is_one_problem(ctl: Ctl, machine: None, impatient: None) -> None:
    """It takes connections and says nothing: what depends on it is skipped, not failed once more each."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        ran = ctl("doctor", "-o", "json", "--cp-url", f"http://127.0.0.1:{sock.getsockname()[1]}")
    assert (ran.code, [each["id"] for each in ran.json["checks"] if each["status"] == "fail"]) == (1, ["control-plane"])
    assert ran.json["summary"]["warn"] == 0


def test_text_of_a_server_is_cleaned(ctl: Ctl, machine: None, answering: Fake) -> None:
    answering.says("GET", "/v1/clusters", data([{"name": "eu\x1b[31m", "reachable": False}]))
    ran = ctl("doctor")
    assert ("\x1b" in ran.out, "unreachable: eu[31m" in ran.out) == (False, True)


def test_an_option_that_is_wrong_is_still_an_error(ctl: Ctl) -> None:
    assert ctl("doctor", "--auth-mode", "nonsense").code == 2


def test_it_loads_no_server_and_no_settings() -> None:
    """Asked of ports of its own: what runs on this machine, at the ports that it would use by itself, is nothing to it."""
    http, grpc = (f"127.0.0.1:{free_port()}" for _ in range(2))
    code, loaded = modules(f"doctor --cp-url http://{http} --bind-http {http} --bind-grpc {grpc}")
    assert (code, {name.partition(".")[0] for name in loaded} & HEAVY) == (1, set())
