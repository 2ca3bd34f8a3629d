"""
An operation's journal as server-sent events. The stream is the journal: what was written before is read from the database,
what comes after is heard from the writer, and a seq is never missed and never sent twice. A line that is heard out of its
turn (store/listeners.py says when) is no more than a hint to read on in the database.

Framing as real clients parse it: LF ends, one `data:` line, exactly one space after a field's colon.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from sanic import Request

from mcpg.api.context import server
from mcpg.engine.bus import Bus
from mcpg.machines import TABLES
from mcpg.machines.table import Owner
from mcpg.present import end_event, fleet_event, ladder_event, message
from mcpg.store import reads
from mcpg.store.database import Database
from mcpg.store.journal import Line
from mcpg.wire.base import Body

KEEP_ALIVE_S = 15.0
PAGE = 100  # lines that are read at once for a client that catches up
AT_A_TIME = 10  # of them that are made ready before everybody else has a turn
HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}


def rests_there(line: Line) -> bool:
    """Nothing more comes by itself: a final state, or one that an operator owns."""
    table = TABLES[line.machine]
    state = table.states(line.dest)
    return state in table.final or (state is not table.initial and isinstance(table.rests.get(state), Owner))


def frame(event: str, body: Body, seq: int | None = None) -> str:
    lead = "" if seq is None else f"id: {seq}\n"
    return f"{lead}event: {event}\ndata: {body.model_dump_json()}\n\n"


async def follow(db: Database, bus: Bus, subject: str, after: int = 0) -> AsyncIterator[Line | None]:
    """Every line with seq > *after*, past and future, until the subject rests; None when it is time for a keep-alive."""
    with bus.follow(subject) as queue:
        last, past = after, await reads.history(db, subject, after)
        for line in past:
            last = line.seq
            yield line
        newest = past[-1] if past else await reads.find_line(db, subject, after)
        if newest is not None and rests_there(newest):
            return
        while True:
            try:
                async with asyncio.timeout(KEEP_ALIVE_S):
                    line = await queue.get()
            except TimeoutError:
                yield None
                continue
            if line.seq <= last:
                continue
            if line.seq == last + 1:
                news = [line]
            else:  # it has overtaken lines of another control plane, which the feed has not read yet
                news = await reads.history(db, subject, last)
            for each in news:
                last = each.seq
                yield each
            if news and rests_there(news[-1]):
                return


async def ladder(request: Request, operation_id: str) -> None:
    """The answer to a publish or delete: an event a line, until it rests. A line with no news in it is left out."""
    parts = server(request)
    response = await request.respond(
        content_type="text/event-stream", headers={**HEADERS, "x-operation-id": operation_id}
    )
    first_at, phase = 0, ""
    async for line in follow(parts.db, parts.engine.bus, operation_id):
        if line is None:
            await response.send(": keep-alive\n\n")
            continue
        first_at = first_at or line.at
        event = ladder_event(line, first_at)
        if event.phase != phase or message(line):
            await response.send(frame(event.phase, event, event.seq))
        phase = event.phase
    await response.eof()


async def everything(request: Request, after: int) -> None:
    """
    Every operation's lines with a journal id > *after*, for as long as the client stays.

    A wake-up says that there is something; what there is comes from the database. So a client that reads slowly costs
    one page of lines, however much it has to catch up with; and however many catch up, few pages are made at a time.
    """
    parts = server(request)
    response = await request.respond(content_type="text/event-stream", headers=HEADERS)
    await response.send(f"id: {after}\n\n")  # where a client goes on whose stream is cut before the first event
    with parts.engine.bus.wakes() as news:
        while True:
            news.clear()
            while True:
                async with parts.catching_up:
                    after, frames = await _page(parts.db, after)
                if not frames:
                    break
                for text in frames:  # waits while the client does not read; nobody waits for that client then
                    await response.send(text)
            try:
                async with asyncio.timeout(KEEP_ALIVE_S):
                    await news.wait()
            except TimeoutError:
                await response.send(": keep-alive\n\n")


async def _page(db: Database, after: int) -> tuple[int, list[str]]:
    """The next lines as frames, some in each piece; none when there is nothing after *after*. And the last line's id."""
    pieces: list[str] = []
    found = await reads.operation_lines(db, after, PAGE)
    for start in range(0, len(found), AT_A_TIME):
        frames = []
        for after, line, row in found[start : start + AT_A_TIME]:  # noqa: PLR1704 - it is where the client is now
            event = fleet_event(line, row)
            frames.append(frame(event.phase, event, after))
        pieces.append("".join(frames))
        await asyncio.sleep(0)
    return after, pieces


async def events(request: Request, operation_id: str, after: int) -> None:
    """All lines after *after*, then `end`."""
    parts = server(request)
    history = await reads.history(parts.db, operation_id)
    first_at = history[0].at
    response = await request.respond(content_type="text/event-stream", headers=HEADERS)
    last: Line = history[-1]
    async for line in follow(parts.db, parts.engine.bus, operation_id, after):
        if line is None:
            await response.send(": keep-alive\n\n")
            continue
        last = line
        event = ladder_event(line, first_at)
        await response.send(frame(event.phase, event, event.seq))
    await response.send(frame("end", end_event(last)))
    await response.eof()
