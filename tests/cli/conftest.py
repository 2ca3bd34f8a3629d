"""
The command line against a fake control plane (fake.py).

`ctl` runs the programme in this process with captured streams; tests that need a terminal or a clean interpreter start
it as a process.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion
from syrupy.extensions.amber import AmberSnapshotExtension
from syrupy.location import PyTestLocation

from mcpg.cli import doctor, names, peers, running
from mcpg.cli import main as cli
from mcpg.cli.answers import Heard
from mcpg.cli.checks import facts
from tests.bounds import BOUND_S

from .fake import Ctl, Fake, Ran

WAITS = ((doctor, "PATIENCE_S"), (names, "_BUDGET_S"), (facts, "ANSWER_S"), (peers, "ANSWER_S"))
SHIPPED = [(module, name, getattr(module, name)) for module, name in WAITS]
LOOK: dict[str, float] = running.look.__kwdefaults__
SNAPSHOTS = Path(__file__).parents[2] / "snapshots" / "cli"


class InSnapshots(AmberSnapshotExtension):
    """Snapshots live in the top-level folder, where a reviewer looks, not beside the tests."""

    @classmethod
    def dirname(cls, *, test_location: PyTestLocation) -> str:
        return str(SNAPSHOTS)


@pytest.fixture
def snapshot(snapshot: SnapshotAssertion) -> SnapshotAssertion:
    return snapshot.use_extension(InSnapshots)


@pytest.fixture(scope="session")
def _server() -> Iterator[Fake]:
    fake, started = Fake(), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(fake.serve(started)), name="fake")
    thread.start()
    assert started.wait(BOUND_S)
    yield fake
    fake.stop()
    thread.join()


@pytest.fixture
def fake(_server: Fake) -> Fake:
    _server.reset()
    return _server


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of the machine that runs the tests reaches them."""
    for name in os.environ:
        if name.startswith("MCPG_") or name in (
            "CI",
            "NO_COLOR",
            "FORCE_COLOR",
            "COLUMNS",
            "DISPLAY",
            "WAYLAND_DISPLAY",
            "BROWSER",
        ):
            monkeypatch.delenv(name)
    monkeypatch.setattr(Heard, "url", "")  # what a run before this one heard
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MCPG_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("TERM", "xterm")


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is asked here answers, if late: that he is given up after a moment has tests of its own, with `impatient`."""
    for module, name, _ in SHIPPED:
        monkeypatch.setattr(module, name, BOUND_S)
    monkeypatch.setitem(LOOK, "answer_s", BOUND_S)


@pytest.fixture
def impatient(patience: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests in which nobody answers."""
    for module, name, seconds in SHIPPED:
        monkeypatch.setattr(module, name, seconds)
    monkeypatch.setitem(LOOK, "answer_s", running.ANSWER_S)


@pytest.fixture
def ctl(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ctl:
    """Runs `mcpg-ctl` with these arguments here and now."""

    def run(*argv: str, prog: str = "mcpg-ctl") -> Ran:
        monkeypatch.setattr(sys, "argv", [prog, *argv])
        code = cli.main() if prog == "mcpg-ctl" else cli.control_plane()
        out, err = capsys.readouterr()
        return Ran(code, out, err)

    return run


@pytest.fixture
def acme(ctl: Ctl, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> Ctl:
    """`ctl` with the fake control plane and acme/prod/us in the environment."""
    for name, value in (("CP_URL", fake.url), ("ORG", "acme"), ("WORKSPACE", "prod"), ("ENV", "us")):
        monkeypatch.setenv(f"MCPG_{name}", value)
    return ctl
