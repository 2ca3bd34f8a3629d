"""Stored contexts: what the commands do, what is stored and how, and every way the file can be wrong."""

from __future__ import annotations

import fcntl
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from syrupy.assertion import SnapshotAssertion

from mcpg.cli import contexts
from mcpg.cli.commands import COMMANDS
from mcpg.cli.contexts import Context
from mcpg.errors import StateDirUnusable

from .fake import Ctl, Fake, Ran, data

ADD = (
    "context",
    "add",
    "prod",
    "--cp-url",
    "https://cp.example",
    "--org",
    "acme",
    "--workspace",
    "prod",
    "--env",
    "us",
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where they are stored; there is none yet."""
    (tmp_path / "state").mkdir(0o700)
    return tmp_path / "state/contexts.json"


def stored(file: Path, content: Any, mode: int = 0o600) -> None:
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    file.chmod(mode)


def said(ran: Ran, file: Path) -> str:
    return f"{ran.out}{ran.err}".replace(str(file.parent.parent), "HOME")


def test_a_context_from_its_making_to_its_end(ctl: Ctl, file: Path, snapshot: SnapshotAssertion) -> None:
    steps = [
        ("context", "list"),
        (*ADD, "--protected", "--stored-output", "json", "--session-cookie-file", "/secrets/mcpg"),
        ("context", "add", "dev", "--cp-url", "http://127.0.0.1:7843", "--use"),
        ("context", "list"),
        ("context", "list", "-o", "wide"),
        ("context", "list", "-o", "name"),
        ("context", "list", "-o", "json"),
        ("context", "show"),
        ("context", "show", "prod", "-o", "yaml"),
        ("context", "use", "prod"),
        ("context", "use", "none"),
        ("context", "show"),
        ("context", "rm", "prod"),
        ("context", "rm", "--all", "--yes"),
        ("context", "list"),
    ]
    assert "".join(f"$ mcpg-ctl {' '.join(step)}\n{said(ctl(*step), file)}" for step in steps) == snapshot


def test_the_file_is_for_its_owner_alone_and_never_half_written(ctl: Ctl, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        assert ctl(*ADD).code == 0
    finally:
        os.umask(before)
    found = {
        path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "state", tmp_path / "state/contexts.json")
    }
    assert found == {"state": 0o700, "contexts.json": 0o600}
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["contexts.json"]


def test_adding_stores_what_was_typed_and_nothing_of_the_environment(
    ctl: Ctl, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MCPG_ORG", "elsewhere")
    monkeypatch.setenv("MCPG_SESSION_COOKIE", "c4n4ry")
    monkeypatch.chdir(file.parent)
    ctl("context", "add", "dev", "--cp-url", "http://h:1", "--session-cookie-file", "cookie")
    session = str(file.parent / "cookie")
    assert json.loads(file.read_text()) == {
        "current": "",
        "contexts": {"dev": {"cp_url": "http://h:1", "session_cookie_file": session}},
    }


@pytest.mark.parametrize(
    "argv",
    [
        ("prod",),
        ("prod", "--cp-url", "ftp://h"),
        ("prod", "--cp-url", "http://ada:c4n4ry@h"),
        ("prod", "--cp-url", "http://h:0"),
        ("prod", "--cp-url", "http://h?token=1"),
        ("prod", "--org", "Acme Corp"),
        ("prod", "--session-cookie-file", "-"),
        ("prod", "--stored-output", "jsno"),
        ("none",),
        ("-x",),
        ("a/b",),
        ("",),
        ("prod", "extra"),
        (),
    ],
    ids=" ".join,
)
def test_what_cannot_be_stored(ctl: Ctl, file: Path, snapshot: SnapshotAssertion, argv: tuple[str, ...]) -> None:
    stored(file, {"contexts": {"prod": {}}})
    before = file.read_text()
    ran = ctl("context", "add", *argv)
    assert (ran.out, file.read_text()) == ("", before)
    assert "c4n4ry" not in ran.err
    assert f"{ran.code}\n{said(ran, file)}" == snapshot


def test_replacing_leaves_nothing_of_the_old_one(ctl: Ctl, file: Path) -> None:
    ctl(*ADD, "--protected")
    ctl("context", "add", "prod", "--org", "acme", "--replace")
    assert json.loads(file.read_text())["contexts"] == {"prod": {"org": "acme"}}


def test_the_environment_decides_which_one_is_in_use(ctl: Ctl, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored(file, {"current": "dev", "contexts": {"dev": {}, "prod": {}}})
    monkeypatch.setenv("MCPG_CONTEXT", "prod")
    found = [(each["name"], each["in_use"], each["current"]) for each in ctl("context", "list", "-o", "json").json]
    assert (found, ctl("context", "show", "-o", "name").out) == (
        [("dev", False, True), ("prod", True, False)],
        "prod\n",
    )


def test_a_command_takes_from_the_context_what_is_not_given(ctl: Ctl, fake: Fake, file: Path) -> None:
    stored(file, {"current": "acme", "contexts": {"acme": {"cp_url": fake.url, "org": "acme", "output": "json"}}})
    fake.says("GET", "/v1/orgs/acme/operations", data([]))
    fake.says("GET", "/v1/orgs/other/operations", data([]))
    outs = [ctl("provision", "history", *more).out for more in ((), ("--org", "other"), ("-o", "name"))]
    assert (outs, [asked.path.split("/")[3] for asked in fake.asked]) == (
        ["[]\n", "[]\n", ""],
        ["acme", "other", "acme"],
    )


def test_the_session_of_a_context_goes_to_its_own_url_only(
    ctl: Ctl, fake: Fake, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = file.with_name("cookie")
    secret.write_text("c4n4ry\n")
    secret.chmod(0o600)
    session = {"session_cookie_file": str(secret), "org": "acme"}
    fake.says("GET", "/v1/orgs/acme/operations", data([]))

    def cookie(url: str, *argv: str) -> str | None:
        stored(file, {"current": "acme", "contexts": {"acme": {"cp_url": url, **session}}})
        assert ctl("provision", "history", *argv).code == 0
        return fake.asked[-1].headers.get("cookie")

    sent = "mcpg_sid=c4n4ry"
    assert (cookie(fake.url), cookie(fake.url, "--cp-url", fake.url)) == (sent, sent)
    assert cookie("https://cp.example", "--cp-url", fake.url) is None
    monkeypatch.setenv("MCPG_CP_URL", fake.url)
    assert cookie("https://cp.example") is None
    assert cookie(fake.url, "--session-cookie", "mine") == "mcpg_sid=mine"
    monkeypatch.setenv("MCPG_SESSION_COOKIE", "env")
    assert cookie(fake.url) == "mcpg_sid=env"


BROKEN = {
    "not JSON": "{",
    "not an object": "[]",
    "no contexts": {"contexts": []},
    "current is a number": {"current": 7},
    "a context is no object": {"current": "prod", "contexts": {"prod": []}},
    "a value is no text": {"current": "prod", "contexts": {"prod": {"org": 7}}},
    "protected is no flag": {"current": "prod", "contexts": {"prod": {"protected": "yes"}}},
    "not UTF-8": {"current": "prod", "contexts": {"prod": {"org": "\ud800"}}},
    "an output that does not exist": {"current": "prod", "contexts": {"prod": {"output": "xml"}}},
    "current is gone": {"current": "gone", "contexts": {"prod": {}}},
    "deep": "[" * 100_000,
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_corrupt_file_is_refused_with_a_way_on(
    ctl: Ctl, file: Path, snapshot: SnapshotAssertion, broken: str
) -> None:
    stored(file, BROKEN[broken])
    ran = ctl("provision", "history", "--org", "acme")
    assert (ran.out, "Traceback" in ran.err) == ("", False)
    assert f"{ran.code}\n{said(ran, file)}" == snapshot


@pytest.mark.parametrize("broken", BROKEN)
def test_a_corrupt_file_stops_nobody_who_does_not_need_it(ctl: Ctl, file: Path, broken: str) -> None:
    stored(file, BROKEN[broken])
    lines = ["--help", "version", "status", "completion bash", "help settings", "gateway-status"]
    assert [ctl(*line.split()).code for line in lines] == [0] * len(lines)
    assert ctl("context", "rm", "--all", "--yes") == (0, "forgotten: all\n", "")
    assert ctl("context", "list").code == 0


def test_a_context_that_is_broken_can_be_forgotten_alone(ctl: Ctl, file: Path) -> None:
    stored(file, {"current": "bad", "contexts": {"bad": 7, "good": {"org": "acme"}}})
    assert ctl("context", "rm", "bad").code == 0
    assert json.loads(file.read_text()) == {"current": "", "contexts": {"good": {"org": "acme"}}}


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_is_refused(ctl: Ctl, file: Path, mode: int, snapshot: SnapshotAssertion) -> None:
    """It says where the session is sent."""
    stored(file, {"contexts": {}}, mode)
    ran = ctl("provision", "history", "--org", "acme")
    assert (ran.code, said(ran, file)) == (1, snapshot)


def test_a_file_that_cannot_be_read_is_refused(ctl: Ctl, file: Path, snapshot: SnapshotAssertion) -> None:
    file.mkdir()
    ran = ctl("context", "list")
    assert (ran.code, said(ran, file)) == (1, snapshot)


@pytest.mark.parametrize(("argv", "environ"), [(("--context", "prdo"), ""), ((), "prdo"), (("--context", ""), "")])
def test_a_context_that_is_not_stored(
    *,
    ctl: Ctl,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    snapshot: SnapshotAssertion,
    argv: tuple[str, ...],
    environ: str,
) -> None:
    stored(file, {"contexts": {"prod": {}, "dev": {}}})
    monkeypatch.setenv("MCPG_CONTEXT", environ)
    ran = ctl("provision", "history", "--org", "acme", *argv)
    assert (ran.code, ran.err) == (2, snapshot)


def test_every_command_that_connects_takes_a_context() -> None:
    connecting = [command for command in COMMANDS if any(option.field == "cp_url" for option in command.options)]
    without = [command.words for command in connecting if not any(each.field == "context" for each in command.options)]
    assert without == [("context", "add")]


def test_a_change_lets_no_other_in_between_its_read_and_its_write(tmp_path: Path) -> None:
    with contexts.changing(tmp_path):
        other = os.open(tmp_path, os.O_RDONLY)
        try:
            with pytest.raises(BlockingIOError):
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(other)


def test_a_write_that_fails_leaves_the_old_file(file: Path) -> None:
    stored(file, {"contexts": {"prod": {}}})
    file.with_name(f".contexts.json.{os.getpid()}").symlink_to("/nonexistent")
    with pytest.raises(StateDirUnusable), contexts.changing(file.parent) as found:
        found.stored.clear()
    assert list(contexts.read(file.parent).stored) == ["prod"]


@given(st.text(), st.dictionaries(st.sampled_from(contexts.FIELDS), st.text(min_size=1)))
def test_another_url_than_the_contexts_own_never_gets_its_session(url: str, values: dict[str, str]) -> None:
    layer = Context("prod", values, protected=False).layer(url)
    assert ("session_cookie_file" in layer) == ("session_cookie_file" in values and url == values.get("cp_url"))


def test_a_fifo_is_refused_at_once_and_can_be_removed(ctl: Ctl, file: Path) -> None:
    os.mkfifo(file, 0o600)
    ran = ctl("context", "list")
    assert (ran.code, ran.err.splitlines()[1]) == (1, "cause: it is not a regular file")
    assert (ctl("context", "rm", "--all", "--yes").code, file.exists()) == (0, False)


def test_a_file_that_is_too_large_is_refused(ctl: Ctl, file: Path) -> None:
    stored(file, {"contexts": {"prod": {"org": "x" * 1_048_576}}})
    assert ctl("context", "list").err.splitlines()[1] == "cause: it is larger than 1024 KiB"


def test_a_name_in_the_file_cannot_become_a_command(ctl: Ctl, file: Path) -> None:
    stored(file, {"contexts": {"a b;$(id)": 7}})
    assert ctl("context", "list").err.splitlines()[-1] == "hint:  mcpg-ctl context rm 'a b;$(id)'"
