"""
When work that failed is tried again: how long the pause is, and what the journal says of it; and what it says when the
deadline came first.

The pause doubles with each attempt, has jitter so that many do not come back at once, and is capped. However short the
pauses that an effect asks for, no state writes more than `MOST` such lines before its deadline: a history stays readable,
and an operation can always be ended. Called by driver.py.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from mcpg.engine.operation import Operation, Outcome
from mcpg.errors import TemporaryError
from mcpg.machines import TABLES
from mcpg.store.journal import Line

CAP_S = 30.0
FREE = 8  # attempts with whatever pause comes out; the rest share what is left of the deadline
MOST = 24  # attempts in one state
PAUSED = "paused"  # as every operation machine calls it


@dataclass(frozen=True, slots=True)
class Backoff:
    """`rng` answers from 0 to 1: the pause is between half of what it would be and all of it."""

    rng: Callable[[], float] = random.random

    def pause_s(self, attempt: int, delay: float, left: float | None) -> float:
        """Seconds after the *attempt*th failure in a row (1 is the first); *left* are those to the deadline."""
        grown = min(CAP_S, max(0.0, delay) * 2.0 ** (min(attempt, 16) - 1))
        pause = grown * (0.5 + self.rng() / 2)
        if attempt <= FREE:
            return pause
        if left is None:
            return max(pause, CAP_S / 2)
        return max(pause, left / max(1, MOST - attempt + 1))


def again(op: Operation, exc: TemporaryError, backoff: Backoff, left: float | None) -> Outcome:
    """The line that says so: which attempt failed and why, and when the next one is due. The row stays where it is."""
    words, failed = said(exc), op.attempt + 1
    pause = backoff.pause_s(failed, exc.delay, left)
    too_late = left is not None and pause >= left
    when = (
        f"no more attempts in the {left:.1f} s that are left" if too_late else f"attempt {failed + 1} in {in_s(pause)}"
    )
    return Outcome(
        op.table.events("retry"),
        reason=f"{when}: {words}",
        data={"attempt": failed, "delay_s": round(pause, 3), "words": words},
        again_s=pause,
    )


def said(exc: TemporaryError) -> str:
    return exc.what + (f": {exc.cause}" if exc.cause else "")


def in_s(seconds: float) -> str:
    """`0.25 s`, `4 s`: short enough for a line of the ladder."""
    return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


def last_words(lines: Sequence[Line], state: str) -> str:
    """Why the last attempt failed since *state* was entered; "" when none did."""
    for line in reversed(lines):
        if line.dest != state:
            return ""
        if line.data.get("words") and line.event == "retry":
            return str(line.data["words"])
    return ""


@cache
def _pausing(machine: str) -> frozenset[tuple[str, str]]:
    """State and event of every move to `paused`, guards aside."""
    return frozenset((m.source.value, m.event.value) for m in TABLES[machine].moves if m.dest.value == PAUSED)


def paused_by(op: Operation, outcome: Outcome) -> dict[str, object]:
    """What a row that comes to wait for an operator remembers: where it was, and why. {} for any other move."""
    if (op.state, outcome.event.value) not in _pausing(op.table.name):
        return {}
    if op.table.step(op.state, outcome.event, outcome.facts).value != PAUSED:
        return {}
    return {"paused_in": op.state, "error": outcome.reason, "code": outcome.data.get("code", "failed")}
