"""Fault points: what may be armed, what happens at one, and that docs/crash.md has them all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mcpg import faults
from mcpg.errors import PermanentError, TemporaryError
from mcpg.machines import TABLES
from tests.bounds import BOUND_S
from tools import crash_doc

KNOWN = faults.points(TABLES)


@pytest.fixture(autouse=True)
def disarmed() -> object:
    yield
    faults.arm({}, KNOWN)


def test_nothing_is_armed_unless_it_was_asked_for() -> None:
    assert faults.armed is None
    faults.arm({}, KNOWN)
    assert faults.armed is None
    faults.reach("effect:before:apply")


def test_every_event_effect_and_undo_of_every_machine_has_its_points() -> None:
    names = {
        f"commit:{when}:{t.name}.{e.value}" for t in TABLES.values() for e in t.events for when in ("before", "after")
    }
    assert names <= set(KNOWN)
    assert {"effect:after:restart", "undo:before:release", "undo:after:remove"} <= set(KNOWN)
    assert len(set(KNOWN)) == len(KNOWN)


def test_a_point_does_what_was_armed_the_time_it_was_armed_for() -> None:
    faults.arm({"MCPG_FAULT": "effect:before:apply:2:again,effect:after:apply:2+:error"}, KNOWN)
    faults.reach("effect:before:apply")
    with pytest.raises(TemporaryError):
        faults.reach("effect:before:apply")
    faults.reach("effect:before:apply")
    faults.reach("effect:after:apply")
    for _ in range(2):
        with pytest.raises(PermanentError):
            faults.reach("effect:after:apply")


@pytest.mark.parametrize(
    "text",
    ["apply", "effect:before:nothing", "effect:before:apply:0", "effect:before:apply:x", "effect:before:apply:1:explode",
     "effect:before:apply:1:kill:now", "effect:before:apply,"],
)  # fmt: skip
def test_what_cannot_be_armed_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"fault point|is not NAME"):
        faults.parse(text, KNOWN)


def test_a_server_refuses_a_point_that_is_not_there(tmp_path: Path) -> None:
    """It does not run without what somebody wanted to test."""
    argv = [sys.executable, "-m", "mcpg.cli.main", "serve", "--state-dir", str(tmp_path / "state")]
    argv += ["--bind-http", "127.0.0.1:0", "--bind-grpc", "127.0.0.1:0"]
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "MCPG_FAULT": "effect:before:nothing"}
    done = subprocess.run(argv, env=environ, capture_output=True, text=True, timeout=BOUND_S, check=False)
    assert done.returncode == 2
    assert "effect:before:nothing" in done.stderr
    assert "docs/crash.md" in done.stderr


def test_the_page_has_them_all() -> None:
    """`make docs` writes the table."""
    assert crash_doc.PAGE.read_text() == crash_doc.page()
