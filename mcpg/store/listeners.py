"""
Who hears of committed journal lines: this process's own as they are committed, and, where several control planes share
a database, the lines of the others as the feed (mcpg/engine/feed.py) reads them. Each line once, but for one case.

Lines of the others come in the order of the journal; an own line comes when it is committed, and may so overtake one of
another's that was committed before it. Who minds compares `Line.seq` within a subject.

The feed may read an own line before the answer to its COMMIT is here, and cannot tell it from another's: it is told as one.
Who has an ear for own lines apart hears it there too, when the answer comes: only then is done what an own line asks for,
such as driving what was accepted here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from mcpg.store.journal import Line

Listener = Callable[[Line], None]
REMEMBERED = 10_000  # lines that the feed told of; an own line that it read before its commit was heard is among them


class Listeners:
    """On the event loop only. `shared`: a feed reads the journal too, so it must be known which lines were told."""

    def __init__(self) -> None:
        self.shared = False
        self._own: list[Listener] = []
        self._others: list[Listener] = []
        self._apart: list[Listener] = []  # of `_own`, those whose `others` is another
        self._awaited: set[tuple[str, int]] = set()  # own lines that the feed has not come past yet
        self._early: OrderedDict[tuple[str, int], None] = OrderedDict()

    def add(self, own: Listener, others: Listener | None = None) -> None:
        """
        *own* hears every line; with *others*, that one those of other control planes instead, and *own* may hear a line
        that *others* heard before. Neither may block or raise.
        """
        self._own.append(own)
        self._others.append(others or own)
        if others is not None:
            self._apart.append(own)

    def committed(self, line: Line) -> None:
        """A line of this process's own, from the writer."""
        told = self._own
        if self.shared:
            key = (line.subject, line.seq)
            if key in self._early:  # the feed was faster than the news of the commit
                del self._early[key]
                told = self._apart
            else:
                self._awaited.add(key)
        for listener in told:
            listener(line)

    def is_known(self, subject: str, seq: int) -> bool:
        """Whether a line that the feed has read was told already. Asked once for each line."""
        key = (subject, seq)
        if key in self._awaited:
            self._awaited.discard(key)
            return True
        return False

    def heard(self, line: Line) -> None:
        """A line of another control plane's, from the feed."""
        self._early[line.subject, line.seq] = None
        if len(self._early) > REMEMBERED:
            self._early.popitem(last=False)
        for listener in self._others:
            listener(line)
