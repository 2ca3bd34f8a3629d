"""What a driver waits on. An asyncio.Event with a time-out does the same for several times the price, thrice a ladder."""

from __future__ import annotations

import asyncio


class Bell:
    """One task waits, anybody rings. Rung while nobody waits, it makes the next wait end at once, until it is cleared."""

    __slots__ = ("_is_rung", "_waiter")

    def __init__(self) -> None:
        self._is_rung = False
        self._waiter: asyncio.Future[None] | None = None

    def ring(self) -> None:
        self._is_rung = True
        self._end()

    def clear(self) -> None:
        self._is_rung = False

    async def wait(self, until: float | None = None) -> bool:
        """Whether it was rung before *until*, a time of the event loop's clock (None: no limit)."""
        if self._is_rung:
            return True
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        timer = None if until is None else loop.call_at(until, self._end)
        try:
            await self._waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()
        return self._is_rung

    def _end(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
