"""What the tests of `doctor` share: one check's verdict out of a whole run, and a state directory with a real database."""

from __future__ import annotations

import shlex
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from mcpg.cli.commands import COMMANDS
from mcpg.cli.parse import parse

from .fake import Ctl, Fake, data

META = {
    "product": "mcpg-control-plane",
    "version": "0.1.0",
    "replica": "r-1",
    "auth_mode": "none",
    "state_dir": "/srv/other",
    "pid": 1,
    "agents_connected": 2,
}


class Said(NamedTuple):
    """One check's result."""

    status: str
    detail: str
    fix: str


Examine = Callable[..., Said]


NOBODY = "http://127.0.0.1:9"  # no ordinary program listens there


@pytest.fixture(autouse=True)
def nobody_at_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """A control plane on the machine that runs the tests is not found."""
    option = next(each for each in COMMANDS if each.words == ("doctor",)).option("cp_url")
    monkeypatch.setattr(option, "default", NOBODY)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """The state directory that every command of the test is given; not there yet."""
    return tmp_path / "state"


@pytest.fixture
def database(state: Path, migrated: Path) -> Iterator[sqlite3.Connection]:
    """The database of a stopped control plane, as its migrations make it, open for the test to change."""
    state.mkdir(mode=0o700)
    shutil.copy(migrated, state / "cp-state.db")
    with closing(sqlite3.connect(state / "cp-state.db", isolation_level=None)) as db:
        yield db


@pytest.fixture
def examine(ctl: Ctl) -> Examine:
    """`examine("state", *flags)`: what that check said in a whole run. Every remedy of the run is held to its rules."""

    def run(check: str, *flags: str) -> Said:
        ran = ctl("doctor", "-o", "json", *flags)
        found = {each["id"]: Said(each["status"], each["detail"], each["fix"]) for each in ran.json["checks"]}
        for name, said in found.items():
            assert said.detail, name
            assert bool(said.fix) == (said.status in ("warn", "fail")), (name, said)
            assert not said.detail.startswith("this check is broken"), (name, said)
            if said.fix.startswith("mcpg-ctl"):
                prog, *argv = shlex.split(said.fix)
                assert parse(prog, argv, COMMANDS).wrong is None, said.fix
        return found[check]

    return run


@pytest.fixture
def answering(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """A control plane at the URL, with a cluster and nothing else to look after."""
    monkeypatch.setenv("MCPG_CP_URL", fake.url)
    fake.says("GET", "/v1/meta", data(META))
    fake.says("GET", "/readyz", data({"ready": True, "checks": {"stopping": False, "database": "ok", "writes": "ok"}}))
    for collection in ("operations", "instances", "clusters", "machines", "stranded"):
        found = [{"name": "local", "state": "registered", "reachable": True}] if collection == "clusters" else []
        fake.says("GET", f"/v1/{collection}", data(found))
    return fake


def stored(state: Path, text: str) -> Path:
    """Stored contexts, as *text*."""
    state.mkdir(mode=0o700)
    path = state / "contexts.json"
    path.write_text(text)
    path.chmod(0o600)
    return path
