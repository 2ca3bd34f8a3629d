"""
How long to wait before trying again. Called by mcpg/agent/identity.py for Register, gateway.py for
sessions, child.py for a data plane that ended.

The rule, which is kinder than the real gateway's (that one resets only after OK): the delay doubles from `first_s` to
`cap_s` and goes back to `first_s` after a session that the control plane ended with OK or that was open for at least
`HEALTHY_S`. There is always a delay, after OK too, so a server that ends every session at once meets one attempt a
second and not a storm.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Final

FIRST_S: Final = 1.0
CAP_S: Final = 60.0
JITTER: Final = 0.25
HEALTHY_S: Final = 60.0


class Backoff:
    """A doubling delay in seconds. The cap is applied before the jitter of ±25 %, so the longest wait is 75 s."""

    def __init__(
        self,
        *,
        first_s: float = FIRST_S,
        cap_s: float = CAP_S,
        clock: Callable[[], float] = time.monotonic,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self._first_s = first_s
        self._cap_s = cap_s
        self._clock = clock
        self._rng = rng
        self._next_s = first_s
        self._opened_at: float | None = None

    def opened(self) -> None:
        """A session is open from now on."""
        self._opened_at = self._clock()

    def closed(self, *, ok: bool) -> float:
        """The session or attempt ended, with status OK or not: the seconds to wait before the next."""
        opened_at, self._opened_at = self._opened_at, None
        if ok or (opened_at is not None and self._clock() - opened_at >= HEALTHY_S):
            self._next_s = self._first_s
        delay = self._next_s
        self._next_s = min(self._cap_s, self._next_s * 2)
        return delay * (1 - JITTER + 2 * JITTER * self._rng())
