"""
The ladder of an operation on stderr: live on a terminal, one plain line per event everywhere else.

Both are fed the same events by mcpg/cli/follow.py and show the server's time, not this machine's. A live phase's line
shows the newest words within it, and ends with those of the event that ended it: the evidence, or why it failed.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any, Protocol

from mcpg.cli import render
from mcpg.cli.alarm import undisturbed
from mcpg.cli.render import clean, took
from mcpg.cli.talk import tell

if TYPE_CHECKING:
    from rich.live import Live as Region
    from rich.text import Text

Event = dict[str, Any]

FAILING = ("rolling_back", "failed", "cancelled")
FINAL = ("ready", "deleted", "recovered", "superseded", "failed", "cancelled")
PAUSED = "paused"  # nothing more comes until an operator decides
_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_FRAMES_A_SECOND = 10


class Ladder(Protocol):
    """What follow.py shows events to."""

    def begin(self, operation_id: str) -> None: ...

    def show(self, event: Event) -> None: ...

    def note(self, text: str) -> None: ...

    def close(self) -> None: ...


def ladder(title: str, *, as_logs: bool = False) -> Ladder:
    """The ladder for this stderr; *title* says what the operation does to what, e.g. `create edge-1  acme/prod/us`."""
    moves = sys.stderr.isatty() and (os.environ.get("TERM") or "dumb") != "dumb" and not os.environ.get("CI")
    return Live(title) if moves and not as_logs else Plain(as_logs=as_logs)


class Silent:
    """Shows nothing: for who only waits."""

    def begin(self, operation_id: str) -> None: ...

    def show(self, event: Event) -> None: ...

    def note(self, text: str) -> None: ...

    def close(self) -> None: ...


class Plain:
    """One line per event, written at once: for pipes, CI, dumb terminals and --json-logs. No `\\r`, no colour."""

    def __init__(self, *, as_logs: bool = False) -> None:
        self._as_logs = as_logs

    def begin(self, operation_id: str) -> None:
        """Nothing: each line names its operation."""

    def show(self, event: Event) -> None:
        words = [*(event.get(key, "") for key in ("at", "operation_id", "phase")), _message(event)]
        facts: dict[str, Any] = {key: event.get(key) for key in ("operation_id", "seq", "phase", "state", "offset_ms")}
        tell(" ".join(clean(word) for word in words if word), as_logs=self._as_logs, event="transition", **facts)

    def note(self, text: str) -> None:
        tell(clean(text), as_logs=self._as_logs, event="connection")

    def close(self) -> None:
        """Nothing is open."""


class Live:
    """Finished phases stay as lines; the running one is redrawn below them, by rich's thread, until `close`."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._region: Region | None = None
        self._operation_id = ""
        self._titled = False
        self._phase = ""
        self._detail = ""
        self._since_ms = 0.0  # the server's offset at which the running phase began
        self._last_ms = 0.0  # and at which its last event happened
        self._heard = 0.0  # when that event came, by this machine's monotonic clock

    def begin(self, operation_id: str) -> None:
        self._operation_id = operation_id
        if self._region is None:
            region = _region(self)
            with undisturbed():
                self._region = region
                region.start()

    def show(self, event: Event) -> None:
        with undisturbed():
            self._show(event)

    def note(self, text: str) -> None:
        with undisturbed():
            self._line(f"  {clean(text)}")

    def close(self) -> None:
        """Stops the thread and leaves the running phase, if there is one, as a line that no longer moves."""
        with undisturbed():
            phase, self._phase = self._phase, ""
            if phase:
                self._rung("·", "dim", phase, self._now_ms() - self._since_ms, self._detail)
            if self._region is not None:
                self._region.stop()
                self._region = None

    def _show(self, event: Event) -> None:
        phase = str(event.get("phase", ""))
        offset = float(event.get("offset_ms") or 0.0)
        if not self._titled:
            self._titled = True
            kind = (event.get("data") or {}).get("kind")  # the server knows whether a publish creates or updates
            title = f"{kind} {self._title.partition(' ')[2]}" if kind else self._title
            self._line(f"operation {clean(self._operation_id)}  {clean(title)}")
        left, words, took_ms = self._phase, self._detail, offset - self._since_ms
        self._last_ms, self._heard = offset, time.monotonic()
        if phase == left:
            self._detail = _message(event) or words
        else:
            self._phase = "" if phase in FINAL else phase
            self._detail = "" if left else _message(event)  # later words tell how the phase before it ended
            self._since_ms = offset
            if left:
                self._leave(left, took_ms, words, event)
            if phase in FINAL and phase not in FAILING:  # a failure has no last line: the error that follows says it
                self._rung("✓", "green", phase, offset, self._detail)
        if self._region is not None:
            self._region.refresh()

    def __rich__(self) -> Text:
        """What rich draws: the line of the running phase as it is now; empty before the first event and after the last."""
        from rich.text import Text

        if not self._phase:
            return Text(end="")
        now = time.monotonic()
        frame = _FRAMES[int(now * _FRAMES_A_SECOND) % len(_FRAMES)]
        words = _words(self._phase, self._now_ms() - self._since_ms, self._detail)
        return Text(f"  {frame} {words}", no_wrap=True, overflow="ellipsis", end="")

    def _now_ms(self) -> float:
        return self._last_ms + (time.monotonic() - self._heard) * 1000

    def _leave(self, phase: str, ms: float, detail: str, event: Event) -> None:
        """The line of the phase that *event* ended."""
        glyph, colour, words = "✓", "green", _message(event) or detail
        if phase == "rolling_back":
            glyph, colour = "↺", "yellow"
            words = ", ".join(clean(str(step)) for step in (event.get("data") or {}).get("undone", ())) or detail
        elif event.get("phase") in FAILING:
            glyph, colour = "✗", "red"
        self._rung(glyph, colour, phase, ms, words)

    def _rung(self, glyph: str, colour: str, phase: str, ms: float, detail: str) -> None:
        self._line("  ", (glyph, colour), f" {_words(phase, ms, detail)}")

    def _line(self, *parts: str | tuple[str, str]) -> None:
        """A line that stays, above the running one. It may be longer than the terminal is wide: nothing of it is lost."""
        from rich.text import Text

        if self._region is not None:
            self._region.console.print(Text.assemble(*parts), soft_wrap=True)


def _region(live: Live) -> Region:
    """What rich redraws on stderr. The cursor stays visible: who kills a viewer must not lose it."""
    from rich.console import Console
    from rich.live import Live as Region

    sizes = ("COLUMNS", "LINES")  # rich fails at what is a digit and no number: ²
    environ = {name: value for name, value in os.environ.items() if name not in sizes or render.is_size(value)}

    class Visible(Console):
        def show_cursor(self, show: bool = True) -> bool:
            return False

    return Region(
        live,
        console=Visible(stderr=True, highlight=False, _environ=environ),
        refresh_per_second=_FRAMES_A_SECOND,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )


def _words(phase: str, ms: float, detail: str) -> str:
    elapsed = f"{max(ms, 0.0) / 1000:.1f}s" if ms < 60_000 else took(ms)
    return f"{clean(phase).replace('_', ' '):<12} {elapsed:>5}  {detail}".rstrip()


def _message(event: Event) -> str:
    """An event's words, with the reason when the message does not hold it already."""
    message, reason = clean(event.get("message") or ""), clean(event.get("reason") or "")
    return message if reason in message else f"{message} ({reason})" if message else reason
