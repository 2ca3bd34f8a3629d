"""
The ladder of an operation on stderr: live on a terminal, one plain line per event everywhere else.

Both are fed the same events by mcpg/cli/follow.py and show the server's time, not this machine's. A live phase's line
shows the newest words within it, and ends with those of the event that ended it: the evidence, or why it failed.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from typing import Any, Protocol

from mcpg.cli.render import clean, painted, took

Event = dict[str, Any]

FAILING = ("rolling_back", "failed", "cancelled")
FINAL = ("ready", "deleted", "failed", "cancelled")
PAUSED = "paused"  # nothing more comes until an operator decides
_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_FRAME_S = 0.1
_ERASE = "\r\x1b[2K"


class Ladder(Protocol):
    """What follow.py shows events to."""

    def begin(self, operation_id: str) -> None: ...

    def show(self, event: Event) -> None: ...

    def note(self, text: str) -> None: ...

    def close(self) -> None: ...


def ladder(title: str) -> Ladder:
    """The ladder for this stderr; *title* says what the operation does to what, e.g. `create edge-1  acme/prod/us`."""
    moves = sys.stderr.isatty() and (os.environ.get("TERM") or "dumb") != "dumb" and not os.environ.get("CI")
    return Live(title) if moves else Plain()


class Plain:
    """One line per event, written at once: for pipes, CI and dumb terminals. No `\\r`, no colour."""

    def begin(self, operation_id: str) -> None:
        """Nothing: each line names its operation."""

    def show(self, event: Event) -> None:
        words = [event.get("at", ""), event.get("operation_id", ""), event.get("phase", ""), _message(event)]
        _write(" ".join(clean(word) for word in words if word) + "\n")

    def note(self, text: str) -> None:
        _write(f"{clean(text)}\n")

    def close(self) -> None:
        """Nothing is open."""


class Live:
    """Finished phases stay; the running one is redrawn ten times a second by a thread until `close`."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._ticker: threading.Thread | None = None
        self._operation_id = ""
        self._titled = False
        self._phase = ""
        self._detail = ""
        self._since_ms = 0.0  # the server's offset at which the running phase began
        self._last_ms = 0.0  # and at which its last event happened
        self._heard = 0.0  # when that event came, by this machine's monotonic clock
        self._frame = 0

    def begin(self, operation_id: str) -> None:
        self._operation_id = operation_id
        if self._ticker is None:
            self._ticker = threading.Thread(target=self._tick, name="ladder", daemon=True)
            self._ticker.start()

    def show(self, event: Event) -> None:
        phase = str(event.get("phase", ""))
        offset = float(event.get("offset_ms") or 0.0)
        with self._lock:
            if not self._titled:
                kind = (event.get("data") or {}).get("kind")  # the server knows whether a publish creates or updates
                title = f"{kind} {self._title.partition(' ')[2]}" if kind else self._title
                _write(f"operation {clean(self._operation_id)}  {clean(title)}\n")
                self._titled = True
            if phase != self._phase:
                self._leave(phase, offset, event)
                first = not self._phase  # any later event's words tell how the phase before it ended
                self._phase, self._detail, self._since_ms = phase, _message(event) if first else "", offset
            else:
                self._detail = _message(event) or self._detail
            self._last_ms, self._heard = offset, time.monotonic()
            if phase in FINAL:
                self._end(phase, offset)
            else:
                self._draw()

    def note(self, text: str) -> None:
        with self._lock:
            _write(f"{_ERASE}  {clean(text)}\n")
            self._draw()

    def close(self) -> None:
        """Stops the thread and leaves the running phase, if there is one, as a line that no longer moves."""
        self._stop.set()
        if self._ticker is not None:
            self._ticker.join()
        with self._lock:
            if self._phase:
                self._write_line("·", "dim", self._phase, self._now_ms() - self._since_ms, self._detail)
                self._phase = ""

    def _tick(self) -> None:
        while not self._stop.wait(_FRAME_S):
            with self._lock:
                self._frame += 1
                self._draw()

    def _now_ms(self) -> float:
        return self._last_ms + (time.monotonic() - self._heard) * 1000

    def _draw(self) -> None:
        if self._phase:
            frame = _FRAMES[self._frame % len(_FRAMES)]
            text = _line(frame, self._phase, self._now_ms() - self._since_ms, self._detail)
            width = shutil.get_terminal_size().columns
            _write(_ERASE + (text if len(text) < width else text[: width - 2] + "…"))

    def _leave(self, following: str, offset: float, event: Event) -> None:
        """The line of the phase that *following* ends."""
        if not self._phase:
            return
        glyph, colour, detail = "✓", "green", _message(event) or self._detail
        if self._phase == "rolling_back":
            glyph, colour = "↺", "yellow"
            detail = ", ".join(clean(str(step)) for step in (event.get("data") or {}).get("undone", ())) or self._detail
        elif following in FAILING:
            glyph, colour = "✗", "red"
        self._write_line(glyph, colour, self._phase, offset - self._since_ms, detail)

    def _end(self, phase: str, offset: float) -> None:
        """The last line. A failure has none: the error that follows says it."""
        if phase not in FAILING:
            self._write_line("✓", "green", phase, offset, self._detail)
        self._phase = ""

    def _write_line(self, glyph: str, colour: str, phase: str, ms: float, detail: str) -> None:
        _write(_ERASE + _line(painted(glyph, colour, sys.stderr), phase, ms, detail) + "\n")


def _line(glyph: str, phase: str, ms: float, detail: str) -> str:
    elapsed = f"{max(ms, 0.0) / 1000:.1f}s" if ms < 60_000 else took(ms)
    return f"  {glyph} {clean(phase).replace('_', ' '):<12} {elapsed:>5}  {detail}".rstrip()


def _message(event: Event) -> str:
    """An event's words, with the reason when the message does not hold it already."""
    message, reason = clean(event.get("message") or ""), clean(event.get("reason") or "")
    return message if reason in message else f"{message} ({reason})" if message else reason


def _write(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()
