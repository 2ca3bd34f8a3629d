"""Questions before something is destroyed, and the session: what is sent, and which files are refused."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion

from mcpg.cli.inputs import quoted
from mcpg.cli.render import without_login

from .bodies import instance
from .fake import Ctl, Fake, data
from .test_terminal import Start, terminal  # noqa: F401  a fixture

HISTORY = ("provision", "history", "--org", "acme")
FORGET = ("context", "rm", "--all")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state directory with a protected context `prod` in use and an open one, `dev`."""
    (tmp_path / ".mcpg").mkdir()
    file = tmp_path / ".mcpg/contexts.json"
    file.touch(0o600)
    place = {"org": "acme", "workspace": "prod", "env": "us"}
    stored = {"prod": {**place, "protected": True}, "dev": place}
    file.write_text(json.dumps({"current": "prod", "contexts": stored}))
    return file.parent


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("YES", 0), ("n", 1), ("", 1), ("yo", 1)])
def test_a_question_is_answered_with_yes_or_nothing_happens(
    state: Path,
    terminal: Start,  # noqa: F811
    answer: str,
    code: int,
) -> None:
    asking = terminal(*FORGET)
    asking.until("[y/N] ")
    assert asking.text.splitlines() == [
        f"no context, at {state / 'contexts.json'}",
        "mcpg-ctl context rm: forget every context? [y/N] ".partition(": ")[2],
    ]
    asking.types(f"{answer}\n")
    assert (asking.end()[0], (state / "contexts.json").exists()) == (code, bool(code))


def test_the_end_of_input_is_no_yes(state: Path, terminal: Start) -> None:  # noqa: F811
    asking = terminal(*FORGET)
    asking.until("[y/N] ")
    asking.types("\x04")
    assert (asking.end()[0], (state / "contexts.json").exists()) == (1, True)


DELETE = ("provision", "delete", "--instance-uid", "u-1")
WORLD = {"MCPG_ORG": "acme", "MCPG_WORKSPACE": "prod", "MCPG_ENV": "us"}


@pytest.fixture
def gateway(fake: Fake) -> Fake:
    fake.says("GET", "/v1/instances/u-1", data(instance(instance_uid="u-1")))
    return fake


@pytest.mark.usefixtures("state")
def test_a_protected_context_asks_for_the_name_even_with_yes(
    terminal: Start,  # noqa: F811
    gateway: Fake,
    snapshot: SnapshotAssertion,
) -> None:
    asking = terminal(*DELETE, "--yes")
    asking.until("to go on: ")
    asking.types("edge-2\n")
    assert asking.end()[0] == 1
    assert asking.text.replace("\r\n", "\n").replace(gateway.url, "URL") == snapshot
    assert [asked.method for asked in gateway.asked] == ["GET"]


@pytest.mark.usefixtures("state")
def test_the_typed_name_goes_on(terminal: Start, gateway: Fake) -> None:  # noqa: F811
    asking = terminal(*DELETE)
    asking.until("to go on: ")
    asking.types("edge-1\n")
    asking.end()
    assert [asked.method for asked in gateway.asked][:2] == ["GET", "DELETE"]


@pytest.fixture
def here(ctl: Ctl, gateway: Fake, state: Path, monkeypatch: pytest.MonkeyPatch) -> Ctl:
    """`ctl` with the contexts of `state` and no terminal."""
    monkeypatch.setenv("MCPG_STATE_DIR", str(state))
    monkeypatch.setenv("MCPG_CP_URL", gateway.url)
    return ctl


@pytest.mark.parametrize(
    "more",
    [
        (),
        ("--yes",),
        ("--context", "dev"),
        ("--confirm", "edge-2"),
    ],
    ids=" ".join,
)
def test_without_a_terminal_the_flag_that_is_needed_is_named(
    here: Ctl, gateway: Fake, snapshot: SnapshotAssertion, more: tuple[str, ...]
) -> None:
    ran = here(*DELETE, *more)
    assert (ran.code, ran.out, ran.err) == (2, "", snapshot)
    assert "DELETE" not in [asked.method for asked in gateway.asked]


@pytest.mark.parametrize("more", [("--confirm", "edge-1"), ("--confirm", "u-1"), ("--context", "dev", "--yes")])
def test_the_flag_answers(here: Ctl, gateway: Fake, more: tuple[str, ...]) -> None:
    here(*DELETE, *more)
    assert "DELETE" in [asked.method for asked in gateway.asked]


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    file = tmp_path / "cookie"
    file.write_text("c4n4ry\n")
    file.chmod(0o600)
    return file


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o622])
def test_a_session_file_that_others_can_read_or_write_is_refused(
    acme: Ctl, fake: Fake, secret: Path, mode: int, snapshot: SnapshotAssertion
) -> None:
    secret.chmod(mode)
    ran = acme(*HISTORY, "--session-cookie-file", str(secret))
    assert (ran.code, fake.asked) == (2, [])
    assert f"{ran.out}{ran.err}".replace(str(secret.parent), "HOME") == snapshot


@pytest.mark.parametrize("what", ["missing", "a directory", "not UTF-8"])
def test_a_session_file_that_cannot_be_read(
    acme: Ctl, fake: Fake, secret: Path, what: str, snapshot: SnapshotAssertion
) -> None:
    where = {"missing": secret.with_name("nothing"), "a directory": secret.parent, "not UTF-8": secret}[what]
    secret.write_bytes(b"\xff")
    ran = acme(*HISTORY, "--session-cookie-file", str(where))
    assert (ran.code, fake.asked) == (2, [])
    assert f"{ran.out}{ran.err}".replace(str(secret.parent), "HOME") == snapshot


def test_what_is_nearest_to_the_person_is_sent(
    acme: Ctl, fake: Fake, secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.says("GET", "/v1/orgs/acme/operations", data([]))

    def sent(*argv: str, **environ: str) -> str | None:
        with monkeypatch.context() as patch:
            for name, value in environ.items():
                patch.setenv(name, value)
            assert acme(*HISTORY, *argv).code == 0
        return fake.asked[-1].headers.get("cookie")

    file = str(secret)
    assert sent() is None
    assert sent(MCPG_SESSION_COOKIE_FILE=file, MCPG_SESSION_COOKIE="env") == "mcpg_sid=c4n4ry"
    assert sent("--session-cookie-file", file, MCPG_SESSION_COOKIE="env") == "mcpg_sid=c4n4ry"
    assert sent("--session-cookie", "flag", MCPG_SESSION_COOKIE_FILE=file) == "mcpg_sid=flag"
    assert sent("--session-cookie", "flag", "--session-cookie-file", file) == "mcpg_sid=c4n4ry"


def test_a_pipe_holds_a_session_as_well(acme: Ctl, fake: Fake) -> None:
    """`--session-cookie-file <(pass show mcpg)`: its mode says nothing."""
    fake.says("GET", "/v1/orgs/acme/operations", data([]))
    read, write = os.pipe()
    os.write(write, b"c4n4ry\n")
    os.close(write)
    ran = acme(*HISTORY, "--session-cookie-file", f"/proc/self/fd/{read}")
    os.close(read)
    assert (ran.code, fake.asked[-1].headers.get("cookie")) == (0, "mcpg_sid=c4n4ry")


def test_a_command_to_be_run_again_repeats_no_secret(here: Ctl, fake: Fake) -> None:
    ran = here(*DELETE, "--cp-url", fake.url.replace("http://", "http://ada:c4n4ry@"))
    assert (ran.code, "c4n4ry" in ran.err) == (2, False)
    assert f"--cp-url {fake.url}" in ran.err.splitlines()[-1]


URLS = {
    "http://ada:c4n4ry@h:1/x": "http://h:1/x",
    "http://ada:c4n/4ry@h": "http://h",
    "http:/ada:c4n4ry@h": "http://h",
    "http://ada:c4n4ry@h/a://b": "http://h/a://b",
    "http://ada:c4n?4#ry@h": "http://h",
    "ada:c4n4ry@h": "h",
    "http://h:1/x": "http://h:1/x",
}


@pytest.mark.parametrize("url", URLS)
def test_a_url_is_shown_without_the_login_in_it(url: str) -> None:
    assert without_login(url) == URLS[url]


@pytest.mark.parametrize("where", ["a FIFO", "a device", "too large"])
def test_a_session_is_not_waited_for(acme: Ctl, fake: Fake, tmp_path: Path, where: str) -> None:
    file = {"a FIFO": tmp_path / "fifo", "a device": Path("/dev/zero"), "too large": tmp_path / "large"}[where]
    os.mkfifo(tmp_path / "fifo", 0o600)
    (tmp_path / "large").write_bytes(b"x" * 70_000)
    (tmp_path / "large").chmod(0o600)
    ran = acme(*HISTORY, "--session-cookie-file", str(file))
    causes = {
        "a FIFO": "it is a pipe that holds nothing",
        "a device": "it is not a regular file",
        "too large": "it is larger than 64 KiB",
    }
    assert (ran.code, ran.err.splitlines()[1], fake.asked) == (2, f"cause: {causes[where]}", [])


CLOSED = {
    "a question": ["context", "rm", "--all"],
    "a config": ["provision", "create", "--name", "edge-1", "--config", "-"],
}


@pytest.mark.parametrize("what", CLOSED)
@pytest.mark.usefixtures("state")
def test_a_closed_stdin_is_no_terminal_and_holds_nothing(tmp_path: Path, what: str) -> None:
    command = shlex.join([sys.executable, "-m", "mcpg.cli.main", *CLOSED[what]])
    environ = {**WORLD, "HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    ran = subprocess.run(["sh", "-c", f"{command} <&-"], env=environ, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout, "bug" in ran.stderr) == (2, "", False)


@pytest.mark.parametrize("name", ["edge-1", "a b;$(id)"])
def test_a_name_in_a_command_to_copy_is_one_word(name: str) -> None:
    assert shlex.split(quoted(name)) == [name]
