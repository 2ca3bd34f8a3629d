"""
Named points at which the control plane can be made to die: a test aid, off unless `MCPG_FAULT` is set when it starts.

`reach(name)` stands at every commit, at every effect, and wherever a crash would be nastiest. With nothing armed it is one
look at a module variable. Armed, the *nth* time the named point is reached the process kills itself with SIGKILL (or
freezes, or raises): no handler runs, nothing is flushed. docs/crash.md has the points and how to use them;
tests/crash/test_matrix.py kills the real server at each. It knows no layer.
"""

from __future__ import annotations

import itertools
import logging
import os
import signal
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from mcpg.errors import PermanentError, TemporaryError

log = logging.getLogger("mcpg.faults")

VARIABLE: Final = "MCPG_FAULT"
ACTIONS: Final = ("kill", "freeze", "error", "again")  # SIGKILL, SIGSTOP, PermanentError, TemporaryError

# Outside the tables. `between` is the middle of something that takes two steps.
PLACES: Final = (
    "start:before:adopt",
    "start:after:adopt",  # running gateways are known again, open operations not yet taken
    "start:after:takeover",
    "token:before:mint",
    "token:after:mint",
    "agent:before:register",
    "agent:after:register",
    "session:before:open",
    "session:after:open",
    "config:before:push",
    "config:after:push",
    "config:before:ack",
    "config:after:ack",
    "replica:before:boot-file",
    "replica:after:boot-file",
    "replica:before:launch",
    "replica:between:launch",  # the launcher is forked, its record perhaps not written
    "replica:after:launch",
    "replica:before:stop",
    "replica:between:stop",  # its process has ended, what it left behind has not
    "replica:after:stop",
    "replica:before:report",
    "replica:between:report",  # told that it ended, not noted yet that this was told
    "replica:after:report",
    "replica:before:keep",
    "replica:after:keep",
    "file:between:write",  # whole under another name, not yet under its own
    "files:before:delete",
    "files:after:delete",
)


@dataclass(slots=True)
class Fault:
    """One armed point: what happens the *nth* time it is reached, and with `on` every time after that."""

    name: str
    nth: int = 1
    action: str = "kill"
    on: bool = False
    _reached: itertools.count[int] = field(default_factory=lambda: itertools.count(1))  # atomic: threads come by too

    def reached(self) -> None:
        time = next(self._reached)
        if time != self.nth and not (self.on and time > self.nth):
            return
        log.critical("%s: %s, as %s asked", self.name, self.action, VARIABLE)
        words, why = f"the fault point {self.name} was reached", f"{VARIABLE} is set: a test aid"
        match self.action:
            case "error":
                raise PermanentError(words, cause=why)
            case "again":
                raise TemporaryError(words, cause=why, delay=0.05)
            case "freeze":
                os.kill(os.getpid(), signal.SIGSTOP)
            case _:
                os.kill(os.getpid(), signal.SIGKILL)
                threading.Event().wait()  # the signal is on its way: nothing more is done here


armed: tuple[Fault, ...] | None = None


def reach(name: str) -> None:
    """This is the point *name*."""
    if armed is not None:
        for fault in armed:
            if fault.name == name:
                fault.reached()


def commits(moment: str, moves: Iterable[tuple[str, str]]) -> None:
    """
    The journal writer is about to commit, or has just committed ("before", "after"), these moves: (machine, event).

    A commit without a move is the point `statements`. Call it only when something is armed: it builds names.
    """
    names = [f"{machine}.{event}" for machine, event in moves]
    for name in names or ["statements"]:
        reach(f"commit:{moment}:{name}")


def points(tables: Mapping[str, Any]) -> tuple[str, ...]:
    """Every point there is: for each machine its events, for each work its effect and its undo, and the places."""
    works = [rest for table in tables.values() for rest in table.rests.values() if hasattr(rest, "effect")]
    names = {
        "commit": [
            *(f"{table.name}.{event.value}" for table in tables.values() for event in table.events),
            "statements",
        ],
        "effect": sorted({work.effect for work in works}),
        "undo": sorted({work.undo for work in works if work.undo}),
    }
    derived = (f"{kind}:{moment}:{name}" for kind in names for name in names[kind] for moment in ("before", "after"))
    return (*derived, *PLACES)


def arm(environ: Mapping[str, str], known: Iterable[str]) -> None:
    """
    Arm what `MCPG_FAULT` says (see `parse`); disarm when it says nothing.

    Called once, by mcpg/server.py, as it starts to serve. Raises ValueError for a name that is none of *known*.
    """
    global armed  # noqa: PLW0603 - the one switch
    wanted = environ.get(VARIABLE, "")
    armed = parse(wanted, known) if wanted else None
    if armed:
        log.critical("%s=%s: this control plane will do itself harm; it is a test aid", VARIABLE, wanted)


def parse(text: str, known: Iterable[str]) -> tuple[Fault, ...]:
    """`NAME[:NTH[+][:ACTION]],…`, NAME being `kind:moment:what`. Raises ValueError with what is wrong."""
    there, found = frozenset(known), []
    for each in text.split(","):
        parts = each.strip().split(":")
        name, rest = ":".join(parts[:3]), parts[3:]
        if name not in there:
            raise ValueError(f"there is no fault point {name!r}")
        nth, action = rest[0] if rest else "1", rest[1] if len(rest) > 1 else "kill"
        number = nth.removesuffix("+")
        if not (number.isascii() and number.isdigit() and int(number)) or action not in ACTIONS or len(rest) > 2:
            raise ValueError(f"{each!r} is not NAME[:NTH[+][:{'|'.join(ACTIONS)}]]")
        found.append(Fault(name, int(number), action, on=nth.endswith("+")))
    return tuple(found)
