"""
What only a terminal shows: the live ladder, Ctrl-C, --timeout, the question before a delete. Real ptys, and pyte reads
what they are sent as a terminal would: what is asserted is what a person is left with.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import select
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import pyte
import pytest
from syrupy.assertion import SnapshotAssertion

from tests.bounds import BOUND_S

from .bodies import instance
from .fake import GATEWAYS, HAPPY, OPERATION, UID, Ctl, Fake, data, end, operation, step, stream
from .test_create import FAILED
from .test_steer import UNDONE, plan

START = "import sys; from mcpg.cli.main import main; sys.exit(main())"
CREATE = ("provision", "create", "--name", "edge-1")
DELETE = ("provision", "delete", "--instance-uid", UID)
_ROWS = 24
PLACE = {"MCPG_ORG": "acme", "MCPG_WORKSPACE": "prod", "MCPG_ENV": "us"}
SHOWN = f"/v1/orgs/acme/operations/{OPERATION}"


class Terminal:
    """A process whose stderr and stdin are a terminal and whose stdout is a pipe. `text` is all that was shown."""

    def __init__(self, argv: tuple[str, ...], environ: dict[str, str], columns: int) -> None:
        self._master, slave = os.openpty()
        self._emulator = pyte.Screen(columns, _ROWS)
        self._feed = pyte.ByteStream(self._emulator)
        self.resize(columns)
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
        return self.process.wait(BOUND_S), out

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        os.close(self._master)

    def resize(self, columns: int) -> None:
        """As dragging a window's edge does; the process learns it when it looks."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", _ROWS, columns, 0, 0))
        self._emulator.resize(_ROWS, columns)

    @property
    def screen(self) -> list[str]:
        """What is left to see, row by row, down to the last that holds anything."""
        return "\n".join(row.rstrip() for row in self._emulator.display).rstrip("\n").split("\n")

    @property
    def cursor(self) -> tuple[int, bool]:
        """In which column it stands, and whether it can be seen."""
        return self._emulator.cursor.x, not self._emulator.cursor.hidden

    def _read(self) -> bool:
        ready, _, _ = select.select([self._master], [], [], 30)
        assert ready, f"nothing more was shown: {self.text!r}"
        try:
            more = os.read(self._master, 65536)
        except OSError:  # the other side is closed
            return False
        self.text += more.decode(errors="replace")
        self._feed.feed(more)
        return bool(more)


Start = Callable[..., Terminal]


@pytest.fixture
def terminal(fake: Fake, tmp_path: Path) -> Iterator[Start]:
    with contextlib.ExitStack() as stack:

        def start(*argv: str, columns: int = 80, **environ: str) -> Terminal:
            base = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TERM": "xterm", "MCPG_CP_URL": fake.url}
            started = Terminal(argv, base | PLACE | environ, columns)
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


def test_an_update_is_called_one(terminal: Start, fake: Fake, snapshot: SnapshotAssertion) -> None:
    """Only the server knows whether a publish creates or updates."""
    first = step(1, "allocating", message="update edge-1", offset_ms=4.0, data={"kind": "update", "name": "edge-1"})
    fake.says("POST", GATEWAYS, stream(first, *HAPPY[1:]))
    fake.says("GET", SHOWN, data(operation(kind="update")))
    shown = terminal(*CREATE, NO_COLOR="1")
    assert shown.end()[0] == 0
    assert shown.screen == snapshot


def test_a_ladder_that_waits_for_an_operator(terminal: Start, fake: Fake, snapshot: SnapshotAssertion) -> None:
    events = (
        step(1, "applying"),
        step(2, "rolling_back", message="replica 1 ended"),
        step(3, "paused", message="stuck"),
    )
    fake.says("POST", GATEWAYS, stream(*events))
    shown = terminal(*CREATE, NO_COLOR="1")
    assert shown.end() == (8, "")
    assert [re.sub(r"paused +\S+", "paused …", line) for line in shown.screen] == snapshot


@pytest.mark.parametrize("columns", [80, 40])
def test_attach_leaves_the_very_screen_that_create_left(
    terminal: Start, fake: Fake, columns: int, snapshot: SnapshotAssertion
) -> None:
    """Also on a narrow one, where no line of it is lost."""
    fake.says("POST", GATEWAYS, stream(*HAPPY))
    fake.says("GET", SHOWN, data(operation()))
    fake.says("GET", f"/v1/operations/{OPERATION}", data(operation()))
    quiet = step(1, "allocating", state="requested", message="create edge-1", offset_ms=4.0)
    fake.says("GET", f"/v1/operations/{OPERATION}/events", stream(quiet, *HAPPY[1:], end(3, "ready", ok=True)))
    created = terminal(*CREATE, NO_COLOR="1", columns=columns)
    attached = terminal("operation", "attach", OPERATION, NO_COLOR="1", columns=columns)
    assert created.end() == attached.end()
    assert created.screen == attached.screen == snapshot


def test_a_running_line_that_is_too_long_is_cut_and_never_wraps(terminal: Start, fake: Fake) -> None:
    """Wide characters count double."""
    fake.says("POST", GATEWAYS, stream(step(1, "applying", message="日本語" * 20), then="hang"))
    shown = terminal(*CREATE, NO_COLOR="1", columns=40)
    shown.until("⠙ applying")
    shown.until("⠹ applying")
    assert [line[-1] for line in shown.screen[2:]] == ["…"]


def test_a_window_that_grows_shows_more(terminal: Start, fake: Fake) -> None:
    fake.says("POST", GATEWAYS, stream(step(1, "applying", message="x" * 60), then="hang"))
    shown = terminal(*CREATE, NO_COLOR="1", columns=40)
    shown.until("xxx…")
    shown.resize(100)
    shown.until("x" * 60)
    shown.until("⠙ applying")
    assert shown.screen[-1].endswith("x" * 60)


def test_a_viewer_that_is_killed_leaves_a_cursor(terminal: Start, fake: Fake) -> None:
    fake.says("POST", GATEWAYS, stream(*HAPPY[:2], then="hang"))
    shown = terminal(*CREATE)
    shown.until("applying")
    shown.process.terminate()
    shown.end()
    assert shown.cursor[1]


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
    assert shown.cursor[1]


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
    assert (fake.paths(), shown.cursor) == ([f"POST {GATEWAYS}"], (0, True))


def test_ctrl_c_with_json_is_one_object(terminal: Start, fake: Fake) -> None:
    fake.says("POST", GATEWAYS, stream(*HAPPY[:2], then="hang"))
    shown = terminal(*CREATE, "-o", "json", CI="1")
    shown.until("applying")
    shown.process.send_signal(signal.SIGINT)
    assert shown.end() == (130, "")
    error = json.loads(shown.text.splitlines()[-1])["error"]
    assert (error["code"], error["details"]) == ("detached", {"operation_id": OPERATION, "phase": "applying"})


def test_the_timeout_ends_the_viewing_not_the_operation(terminal: Start, fake: Fake) -> None:
    fake.says("POST", GATEWAYS, stream(*HAPPY[:2], then="hang"))
    shown = terminal(*CREATE, "--timeout", "3600", NO_COLOR="1")
    shown.until("applying")
    shown.process.send_signal(signal.SIGALRM)  # what the timer would send an hour later
    assert shown.end() == (124, "")
    assert shown.screen[-3:] == [
        f"error: operation {OPERATION} goes on without this terminal",
        "cause: create edge-1 took longer than 3600s",
        f"hint:  mcpg-ctl operation attach {OPERATION}",
    ]


def test_the_timer_is_set_from_the_flag(acme: Ctl, fake: Fake) -> None:
    fake.says("POST", GATEWAYS, stream(HAPPY[0], then="hang"))
    assert acme(*CREATE, "--timeout", "0.05").code == 124
    assert signal.getsignal(signal.SIGALRM) == signal.SIG_DFL


def test_delete_asks_and_y_deletes(terminal: Start, fake: Fake, snapshot: SnapshotAssertion) -> None:
    fake.says("GET", f"/v1/instances/{UID}", data(instance()))
    fake.says("DELETE", f"{GATEWAYS}/{UID}", stream(step(1, "deleting"), step(2, "deleted")))
    shown = terminal(*DELETE, columns=200)
    shown.until("[y/N] ")
    question = "\n".join(shown.screen)
    shown.types("y\n")
    assert (shown.end()[0], question.replace(fake.url, "URL")) == (0, snapshot)
    assert "delete edge-1  acme/prod/us" in shown.text


def test_cancel_shows_what_it_would_take_back_and_asks(
    terminal: Start, fake: Fake, snapshot: SnapshotAssertion
) -> None:
    fake.says("GET", f"/v1/operations/{OPERATION}/cancel-plan", data(plan()))
    fake.says("POST", f"/v1/operations/{OPERATION}/cancel", data(operation(running=True)))
    fake.says("GET", f"/v1/operations/{OPERATION}/events", stream(*UNDONE))
    fake.says("GET", f"/v1/operations/{OPERATION}", data(operation(final_phase="cancelled", state="cancelled")))
    shown = terminal("operation", "cancel", OPERATION, columns=200)
    shown.until("[y/N] ")
    question = "\n".join(shown.screen)
    assert [asked.method for asked in fake.asked] == ["GET"], "nothing is sent before the answer"
    shown.types("y\n")
    assert (shown.end()[0], question.replace(fake.url, "URL")) == (0, snapshot)


def test_a_cancel_that_is_not_wanted_after_all_sends_nothing(terminal: Start, fake: Fake) -> None:
    fake.says("GET", f"/v1/operations/{OPERATION}/cancel-plan", data(plan()))
    shown = terminal("operation", "cancel", OPERATION)
    shown.until("[y/N] ")
    shown.types("n\n")
    assert (shown.end()[0], [asked.method for asked in fake.asked]) == (1, ["GET"])


@pytest.mark.parametrize("answer", ["\n", "n\n", "yess\n", "\x04"], ids=["enter", "n", "yess", "end of file"])
def test_any_other_answer_deletes_nothing(terminal: Start, fake: Fake, answer: str) -> None:
    fake.says("GET", f"/v1/instances/{UID}", data(instance()))
    shown = terminal(*DELETE)
    shown.until("[y/N] ")
    shown.types(answer)
    assert shown.end() == (1, "")
    assert ("nothing was changed" in shown.text, fake.paths()) == (True, [f"GET /v1/instances/{UID}"])


def test_ctrl_c_at_the_question_deletes_nothing(terminal: Start, fake: Fake) -> None:
    fake.says("GET", f"/v1/instances/{UID}", data(instance()))
    shown = terminal(*DELETE)
    shown.until("[y/N] ")
    shown.process.send_signal(signal.SIGINT)
    assert (shown.end()[0], "Traceback" in shown.text, len(fake.asked)) == (130, False, 1)
