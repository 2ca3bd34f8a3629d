"""Who hears of a committed journal line: the streams that follow a subject, and whoever listens to all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from mcpg.store.journal import Line


class Bus:
    """Fan-out on the event loop. A follower that stops reading holds only its own queue."""

    def __init__(self) -> None:
        self._followers: dict[str, set[asyncio.Queue[Line]]] = {}
        self._woken: set[asyncio.Event] = set()

    def publish(self, line: Line) -> None:
        for news in self._woken:
            news.set()
        for queue in self._followers.get(line.subject, ()):
            queue.put_nowait(line)

    @contextmanager
    def follow(self, subject: str) -> Iterator[asyncio.Queue[Line]]:
        """
        A queue of the subject's lines from now on. Subscribe first, read the past from the database then, and drop what
        comes twice by its seq: nothing is missed in between.
        """
        queue: asyncio.Queue[Line] = asyncio.Queue()
        self._followers.setdefault(subject, set()).add(queue)
        try:
            yield queue
        finally:
            followers = self._followers[subject]
            followers.discard(queue)
            if not followers:
                del self._followers[subject]

    @contextmanager
    def wakes(self) -> Iterator[asyncio.Event]:
        """Set at every line of any subject, until the holder clears it: however many come, it holds nothing."""
        news = asyncio.Event()
        self._woken.add(news)
        try:
            yield news
        finally:
            self._woken.discard(news)
