"""What only a terminal shows: the live ladder, Ctrl-C, --timeout, the question before a delete. Real ptys."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion

from .fake import GATEWAYS, HAPPY, OPERATION, UID, Ctl, Fake, data, operation, step, stream
from .test_create import FAILED

START = "import sys; from mcpg.cli.main import main; sys.exit(main())"
CREATE = ("provision", "create", "--name", "edge-1")
DELETE = ("provision", "delete", "--instance-uid", UID)
PLACE = {"MCPG_ORG": "acme", "MCPG_WORKSPACE": "prod", "MCPG_ENV": "us"}
SHOWN = f"/v1/orgs/acme/operations/{OPERATION}"


class Terminal:
    """A process whose stderr and stdin are a terminal and whose stdout is a pipe. `text` is all that was shown."""

    def __init__(self, argv: tuple[str, ...], environ: dict[str, str]) -> None:
        self._master, slave = os.openpty()
        command = [sys.executable, "-c", START, *argv]
        self.process = subprocess.Popen(command, stdin=slave, stdout=subprocess.PIPE, stderr=slave, env=environ)
        os.close(slave)
        self.text = ""

    def until(self, wanted: str) -> None:
        """Reads until *wanted* was shown."""
        while wanted not in self.text:
            assert self._read(), f"ended without {wanted!r}: {self.text!r}"

    def types(self, text: str) -> None:
        os.write(self._master, text.encode())

    def end(self) -> tuple[int, str]:
        """Reads to the end; the exit code and stdout."""
        while self._read():
            pass
        assert self.process.stdout is not None
        out = self.process.stdout.read().decode()
        return self.process.wait(30), out

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        os.close(self._master)

    @property
    def screen(self) -> list[str]:
        """What is left to see: of each line, what was written after it was last erased."""
        lines = self.text.replace("\r\n", "\n").split("\n")
        return [line.rpartition("\r\x1b[2K")[2] for line in lines]

    def _read(self) -> bool:
        ready, _, _ = select.select([self._master], [], [], 30)
        assert ready, f"nothing more was shown: {self.text!r}"
        try:
            more = os.read(self._master, 65536)
        except OSError:  # the other side is closed
            return False
        self.text += more.decode()
        return bool(more)


Start = Callable[..., Terminal]


@pytest.fixture
def terminal(fake: Fake, tmp_path: Path) -> Iterator[Start]:
    with contextlib.ExitStack() as stack:

        def start(*argv: str, **environ: str) -> Terminal:
            base = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TERM": "xterm", "MCPG_CP_URL": fake.url}
            started = Terminal(argv, base | PLACE | environ)
            stack.callback(started.close)
            return started

        yield start


@pytest.fixture
def happy(fake: Fake) -> Fake:
    fake.says("POST", GATEWAYS, stream(*HAPPY))
    fake.says("GET", SHOWN, data(operation()))
    return fake


def test_the_live_ladder(terminal: Start, happy: Fake, snapshot: SnapshotAssertion) -> None:
    shown = terminal(*CREATE, NO_COLOR="1")
    code, out = shown.end()
    assert (code, out.splitlines()[0]) == (0, f"edge-1  ready  instance {UID}")
    assert shown.screen == snapshot


def test_a_ladder_that_rolls_back(terminal: Start, fake: Fake, snapshot: SnapshotAssertion) -> None:
    fake.says("POST", GATEWAYS, stream(*FAILED))
    shown = terminal(*CREATE, NO_COLOR="1")
    assert shown.end() == (2, "")
    assert shown.screen == snapshot


def test_a_rollback_does_not_repeat_why_it_began(terminal: Start, fake: Fake) -> None:
    fell, undone = "gateway edge-1 did not stay up", ["remove: 2 processes ended", "release: 2 place(s)"]
    events = (
        HAPPY[0],
        step(2, "applying"),
        step(3, "rolling_back", message=fell),
        step(4, "failed", message=fell, data={"undone": undone}),
    )
    fake.says("POST", GATEWAYS, stream(*events))
    shown = terminal(*CREATE, NO_COLOR="1")
    shown.end()
    assert shown.screen[2:4] == [
        f"  ✗ applying      0.5s  {fell}",
        "  ↺ rolling back  0.5s  remove: 2 processes ended, release: 2 place(s)",
    ]


def test_a_ladder_that_fails_at_once(terminal: Start, fake: Fake, snapshot: SnapshotAssertion) -> None:
    no_room = step(2, "failed", message="no cluster can take edge-1", reason="local: full", code="no_capacity")
    fake.says("POST", GATEWAYS, stream(HAPPY[0], no_room))
    shown = terminal(*CREATE, NO_COLOR="1")
    assert shown.end() == (7, "")
    assert shown.screen == snapshot


def test_the_running_line_moves_and_its_message_is_the_last_one(terminal: Start, happy: Fake) -> None:
    waiting = step(3, "applying", message="1 of 2 enrolled, waiting for replica 2", offset_ms=900.0)
    happy.says("POST", GATEWAYS, stream(*HAPPY[:2], waiting, then="hang"))
    shown = terminal(*CREATE)
    shown.until("⠙ applying")
    shown.until("⠹ applying")
    assert shown.screen[-1].endswith("1 of 2 enrolled, waiting for replica 2")


def test_colour_is_on_the_glyphs_and_the_prefix_only(terminal: Start, fake: Fake) -> None:
    fake.says("POST", GATEWAYS, stream(*FAILED))
    shown = terminal(*CREATE)
    shown.end()
    painted = set(re.findall(r"\x1b\[\d+m(.*?)\x1b\[0m", shown.text))
    assert painted == {"✓", "✗", "↺", "error:", "cause:", "hint:"}


@pytest.mark.parametrize("environ", [{"CI": "true"}, {"TERM": "dumb"}, {"TERM": ""}], ids=str)
def test_nothing_moves_in_ci_or_on_a_dumb_terminal(terminal: Start, happy: Fake, environ: dict[str, str]) -> None:
    shown = terminal(*CREATE, **environ)
    shown.end()
    assert ("\x1b" in shown.text, shown.text.replace("\r\n", "").count("\r")) == (False, 0)
    assert shown.text.splitlines()[2].startswith("2026-11-22T10:21:03.114Z op-7f2e ready")


def test_ctrl_c_detaches_and_says_how_to_look(terminal: Start, fake: Fake, snapshot: SnapshotAssertion) -> None:
    """Without one more request: it never cancels by itself."""
    fake.says("POST", GATEWAYS, stream(*HAPPY[:2], then="hang"))
    shown = terminal(*CREATE, NO_COLOR="1")
    shown.until("applying")
    shown.process.send_signal(signal.SIGINT)
    assert shown.end() == (130, "")
    assert [re.sub(r"applying +\S+", "applying …", line) for line in shown.screen] == snapshot
    assert fake.paths() == [f"POST {GATEWAYS}"]


def test_ctrl_c_with_json_is_one_object(terminal: Start, fake: Fake) -> None:
    fake.says("POST", GATEWAYS, stream(*HAPPY[:2], then="hang"))
    shown = terminal(*CREATE, "-o", "json", CI="1")
    shown.until("applying")
    shown.process.send_signal(signal.SIGINT)
    assert shown.end() == (130, "")
    assert '"code": "detached"' in shown.screen[-2]
    assert f'"operation_id": "{OPERATION}", "phase": "applying"' in shown.screen[-2]


def test_the_timeout_ends_the_viewing_not_the_operation(terminal: Start, fake: Fake) -> None:
    fake.says("POST", GATEWAYS, stream(*HAPPY[:2], then="hang"))
    shown = terminal(*CREATE, "--timeout", "3600", NO_COLOR="1")
    shown.until("applying")
    shown.process.send_signal(signal.SIGALRM)  # what the timer would send an hour later
    assert shown.end() == (124, "")
    assert shown.screen[-4:-1] == [
        f"error: operation {OPERATION} goes on without this terminal",
        "cause: create edge-1 took longer than 3600s",
        "hint:  mcpg-ctl provision history --org acme --verbose",
    ]


def test_the_timer_is_set_from_the_flag(acme: Ctl, fake: Fake) -> None:
    fake.says("POST", GATEWAYS, stream(HAPPY[0], then="hang"))
    assert acme(*CREATE, "--timeout", "0.05").code == 124
    assert signal.getsignal(signal.SIGALRM) == signal.SIG_DFL


def test_delete_asks_and_y_deletes(terminal: Start, fake: Fake, snapshot: SnapshotAssertion) -> None:
    fake.says("GET", "/v1/orgs/acme/instances", data([{"instance_uid": UID, "name": "edge-1", "state": "online"}]))
    fake.says("DELETE", f"{GATEWAYS}/{UID}", stream(step(1, "deleting"), step(2, "deleted")))
    shown = terminal(*DELETE)
    shown.until("[y/N] ")
    question = shown.screen[-1]
    shown.types("y\n")
    assert (shown.end()[0], question.replace(fake.url, "URL")) == (0, snapshot)


@pytest.mark.parametrize("answer", ["\n", "n\n", "yess\n", "\x04"], ids=["enter", "n", "yess", "end of file"])
def test_any_other_answer_deletes_nothing(terminal: Start, fake: Fake, answer: str) -> None:
    fake.says("GET", "/v1/orgs/acme/instances", data([]))
    shown = terminal(*DELETE)
    shown.until("[y/N] ")
    shown.types(answer)
    assert shown.end() == (1, "")
    assert ("nothing was deleted" in shown.text, fake.paths()) == (True, ["GET /v1/orgs/acme/instances"])


def test_ctrl_c_at_the_question_deletes_nothing(terminal: Start, fake: Fake) -> None:
    fake.says("GET", "/v1/orgs/acme/instances", data([]))
    shown = terminal(*DELETE)
    shown.until("[y/N] ")
    shown.process.send_signal(signal.SIGINT)
    assert (shown.end()[0], "Traceback" in shown.text, len(fake.asked)) == (130, False, 1)
