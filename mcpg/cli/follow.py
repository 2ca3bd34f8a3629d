"""
Follows one operation to its end, whatever happens to the connection or to the control plane.

The stream of the first request is read; when it is cut, it is resumed at `Last-Event-ID`; when that fails too often,
the operation itself is polled, for longer than a restart takes. Only a final phase, or one that waits for an operator,
ends it: a stream that just stops proves nothing. A request that was cut before it was answered is sent again with the
same Idempotency-Key, which makes it the same operation.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from mcpg.cli.answers import NotAnAnswer
from mcpg.cli.client import Api, Cut, Stream
from mcpg.cli.ladder import FINAL, PAUSED, Event, Ladder
from mcpg.errors import McpgError, Unreachable, exit_code

BACKOFF_S = (0.1, 0.4, 1.0, 2.0, 4.0)  # a restart on one machine takes a second or three
SLOW_S = 5.0
_POLL_S = 1.0
_UNANSWERED_S = 30.0  # for a request of which nobody knows whether it arrived
PATIENCE_S = 300.0  # of silence in a row, for an operation that is known: a host that reboots is back by then

Open = Callable[[], AbstractContextManager[Stream]]


class Following:
    """
    One operation as it was seen so far. `operation_id` is "" until the server has named it.

    *where* is the path that operations have: `("v1", "operations")`, or the same of one org.
    """

    def __init__(
        self,
        api: Api,
        where: tuple[str, ...],
        ladder: Ladder,
        *,
        patience_s: float = PATIENCE_S,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.operation_id = ""
        self.last: Event = {}  # the last ladder event
        self._api = api
        self._where = where
        self._ladder = ladder
        self._patience_s = patience_s
        self._pause = pause
        self._seq = 0
        self._is_sent = False  # a request went out and its connection broke: it may have arrived

    def accepted(self, first: Open) -> str:
        """Sends the request and returns the operation's id without waiting for more."""
        for wait in (*BACKOFF_S, None):
            with contextlib.suppress(Cut), first() as stream:
                self._name(stream.operation_id)
                if not self.operation_id:
                    self._read_one(stream)
            if self.operation_id:
                return self.operation_id
            if wait is not None:
                self._pause(wait)
        raise self._lost()

    def attached(self, operation_id: str, after: int = 0) -> Event:
        """As `to_the_end`, for an operation that exists: everything after event *after*, 0 for all of it, then live."""
        self._seq = after
        self._name(operation_id)
        return self.to_the_end(self._resumed)

    def to_the_end(self, first: Open) -> Event:
        """Sends the request, shows the ladder, returns the final event. Raises RemoteError or Unreachable."""
        failures, waited_s = 0, 0.0
        while True:
            before = self._seq
            final, why = self._streamed(self._resumed if self.operation_id else first)
            if final is not None:
                return final
            if self._seq > before:
                failures = 0
            if failures == 0 and self.operation_id:
                self._ladder.note(f"connection lost, resuming after event {self._seq}: {why}")
            if failures == len(BACKOFF_S) and self.operation_id:
                final = self._polled()
                if final is not None:
                    return final
                failures = 0
                continue
            if not self.operation_id and waited_s >= _UNANSWERED_S:
                raise self._lost()
            wait_s = BACKOFF_S[failures] if failures < len(BACKOFF_S) else SLOW_S
            self._pause(wait_s)
            failures, waited_s = failures + 1, waited_s + wait_s

    def _streamed(self, opened: Open) -> tuple[Event | None, str]:
        """One stream, to its end: the final event, or None and why it ended without one."""
        try:
            with opened() as stream:
                self._name(stream.operation_id)
                return self._read(stream) or self._paused(), "the stream ended early"
        except Cut as cut:
            self._is_sent = True
            return None, str(cut)
        except McpgError as exc:
            if not (self.operation_id or self._is_sent) or not is_unreachable(exc):
                raise
            return None, exc.cause

    def _resumed(self) -> AbstractContextManager[Stream]:
        headers = {"last-event-id": str(self._seq)}
        return self._api.stream("GET", *self._where, self.operation_id, "events", headers=headers)

    def _name(self, operation_id: str) -> None:
        if operation_id and not self.operation_id:
            self.operation_id = operation_id
            self._ladder.begin(operation_id)

    def _read_one(self, stream: Stream) -> None:
        for _, event in stream.events():
            self._name(str(event.get("operation_id", "")))
            return

    def _read(self, stream: Stream) -> Event | None:
        """The final event, None when the stream stopped before it."""
        for name, event in stream.events():
            if event.get("operation_id", "") not in ("", self.operation_id) and self.operation_id:
                continue  # of another operation
            if name == "end":
                return {**self.last, **{key: value for key, value in event.items() if value not in ("", None)}}
            if self._seen(event):
                return event
        return None

    def _paused(self) -> Event | None:
        """A stream may also end, in good order, at a state that waits for an operator."""
        return self.last if self.last.get("phase") == PAUSED else None

    def _seen(self, event: Event) -> bool:
        """Shows one event, once; True when it is the final one. A line without news is not shown, as in a first stream."""
        seq = int(event.get("seq") or 0)
        if seq <= self._seq or not event.get("phase"):
            return False
        is_news = event["phase"] != self.last.get("phase") or event.get("message") or event.get("reason")
        self._seq, self.last = seq, event
        self._name(str(event.get("operation_id", "")))
        if is_news:
            self._ladder.show(event)
        return event["phase"] in FINAL

    def _polled(self) -> Event | None:
        """Asks for the operation itself: its end; or None once it answers after a silence, for a stream may work again."""
        silent_s, wait_s, said = 0.0, _POLL_S, False
        while True:
            try:
                operation = self._api.item(*self._where, self.operation_id)
            except McpgError as exc:
                if not is_unreachable(exc):
                    raise
                if silent_s >= self._patience_s:
                    raise self._lost() from None
                if not said:
                    self._ladder.note(f"{exc.what}: trying again every few seconds")
                wait_s = min(wait_s * 2, SLOW_S)
                silent_s += wait_s
            else:
                final = self._caught_up(operation)
                if final is not None or silent_s:
                    return final
                if not said:
                    self._ladder.note("the stream cannot be resumed, asking once a second")
            said = True
            self._pause(wait_s)

    def _caught_up(self, operation: dict[str, Any]) -> Event | None:
        """Shows what an operation's history has beyond what was seen; its end, when it has ended."""
        for transition in operation.get("history") or []:
            self._seen({**transition, "operation_id": self.operation_id, "state": transition.get("dest", "")})
        if operation.get("running", True) and operation.get("final_phase") != PAUSED:
            return None
        ended = {"phase": operation.get("final_phase", ""), "offset_ms": operation.get("duration_ms", 0.0)}
        words = {key: operation.get(key, "") for key in ("state", "code", "instance_uid")}
        return {"message": operation.get("error", ""), **self.last, **words, **ended}

    def _lost(self) -> Unreachable:
        """The connection is gone for good: what is known, and where to look."""
        if not self.operation_id:
            return Unreachable(
                f"the control plane at {self._api.url} took the request and closed the connection",
                cause="whether the operation was accepted is not known",
                hint="mcpg-ctl operation list --running",
            )
        return Unreachable(
            f"lost sight of operation {self.operation_id} after event {self._seq}",
            cause=f"the control plane at {self._api.url} no longer answers; the operation goes on where it lives",
            hint=f"mcpg-ctl operation attach {self.operation_id}",
            operation_id=self.operation_id,
            seq=self._seq,
        )


def is_unreachable(exc: McpgError) -> bool:
    """Nothing of ours answers, or it is stopping: worth another try, unlike a refusal, and unlike an endless answer."""
    return not isinstance(exc, NotAnAnswer) and exit_code(exc.code) == exit_code(Unreachable.code)
