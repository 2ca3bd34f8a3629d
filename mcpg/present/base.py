"""What every body is made with: time, words, a subject's history, and what only this process knows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mcpg.machines import TABLES
from mcpg.machines.header import words
from mcpg.store.clock import to_datetime
from mcpg.store.journal import Line
from mcpg.wire.operations import Transition

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Live:
    """
    What this process knows now, beyond the rows: of an agent (its row) whether it is connected, to whichever replica;
    when each was last heard, and how many are connected; of provisioners when each could last start a gateway. Times
    in microseconds, or None.
    """

    is_connected: Callable[[Row], bool]
    last_heard: Callable[[str], int | None]
    cluster_seen: Callable[[str], int | None] = lambda _: None
    connected: Callable[[], int] = lambda: 0


def when(us: int | None) -> datetime | None:
    return None if us is None else to_datetime(us)


def message(line: Line) -> str:
    """A line in words: its reason, or what was asked in the first one."""
    return words({"source": line.source, "reason": line.reason, "data": line.data})


def transitions(lines: Sequence[Line]) -> list[Transition]:
    """A subject's history: offsets from its first line, and how long it stayed in each state."""
    out = []
    for i, line in enumerate(lines):
        after = lines[i + 1].at if i + 1 < len(lines) else None
        out.append(
            Transition(
                seq=line.seq,
                at=to_datetime(line.at),
                at_us=line.at,
                offset_ms=(line.at - lines[0].at) / 1000,
                source=line.source,
                dest=line.dest,
                phase=TABLES[line.machine].phase(line.dest),
                event=line.event,
                actor=line.actor,
                reason=line.reason,
                message=message(line),
                attempt=int(line.data.get("attempt", 0)),
                facts=line.facts,
                data=line.data,
                definition=line.definition,
                prev_hash=line.prev_hash,
                hash=line.hash,
                in_state_ms=None if after is None else (after - line.at) / 1000,
            )
        )
    return out
