"""
`--timeout`: ends the viewing, whatever it waits for. Used by every command that follows something; and what keeps it, and
Ctrl-C, from ending a line that is half drawn.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


class Alarm(BaseException):
    """The time is up. Not an Exception, so that nothing on the way takes it for a failure of its own."""


@contextlib.contextmanager
def alarm(seconds: float | None) -> Iterator[None]:
    """Raises Alarm in the block after *seconds*; None is never."""

    def ring(_signal: int, _frame: FrameType | None) -> None:
        raise Alarm

    if seconds is None:
        yield
        return
    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Keeps Ctrl-C and the alarm back until the block is done: rich, interrupted while it writes, writes a line twice."""
    kept: list[tuple[int, FrameType | None]] = []

    def keep(number: int, frame: FrameType | None) -> None:
        kept.append((number, frame))

    before = {number: signal.signal(number, keep) for number in (signal.SIGINT, signal.SIGALRM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for came, frame in kept:
        handler = before[signal.Signals(came)]
        if callable(handler):
            handler(came, frame)
