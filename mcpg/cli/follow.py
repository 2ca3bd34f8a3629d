"""
Follows one operation to its end, whatever happens to the connection.

The stream of the first request is read; when it is cut, it is resumed at `Last-Event-ID`; when that fails too often,
the operation itself is polled. Only a final phase, or one that waits for an operator, ends it: a stream that just stops
proves nothing. A request that was cut before it was answered is sent again with the same Idempotency-Key, which makes
it the same operation.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from mcpg.cli.client import Api, Cut, Stream
from mcpg.cli.ladder import FINAL, PAUSED, Event, Ladder
from mcpg.errors import McpgError, Unreachable, exit_code

_BACKOFF_S = (0.1, 0.4, 1.0, 2.0, 4.0)
_POLL_S = 1.0
_POLLS = 10  # without an answer, one after the other

Open = Callable[[], AbstractContextManager[Stream]]


class Following:
    """One operation as it was seen so far. `operation_id` is "" until the server has named it."""

    def __init__(self, api: Api, org: str, ladder: Ladder, *, pause: Callable[[float], None] = time.sleep) -> None:
        self.operation_id = ""
        self.last: Event = {}  # the last ladder event
        self._api = api
        self._org = org
        self._ladder = ladder
        self._pause = pause
        self._seq = 0

    def accepted(self, first: Open) -> str:
        """Sends the request and returns the operation's id without waiting for more."""
        for wait in (*_BACKOFF_S, None):
            with contextlib.suppress(Cut), first() as stream:
                self._name(stream.operation_id)
                if not self.operation_id:
                    self._read_one(stream)
            if self.operation_id:
                return self.operation_id
            if wait is not None:
                self._pause(wait)
        raise self._lost()

    def to_the_end(self, first: Open) -> Event:
        """Sends the request, shows the ladder, returns the final event. Raises RemoteError or Unreachable."""
        failures = 0
        while failures < len(_BACKOFF_S):
            before = self._seq
            try:
                with first() if not self.operation_id else self._resumed() as stream:
                    self._name(stream.operation_id)
                    final = self._read(stream) or self._paused()
            except Cut as cut:
                final, why = None, str(cut)
            except McpgError as exc:
                if not self.operation_id or exit_code(exc.code) != exit_code(Unreachable.code):
                    raise
                final, why = None, exc.cause
            else:
                why = "the stream ended early"
            if final is not None:
                return final
            if self._seq > before:
                failures = 0
            if failures == 0 and self.operation_id:
                self._ladder.note(f"connection lost, resuming after event {self._seq}: {why}")
            self._pause(_BACKOFF_S[failures])
            failures += 1
        if not self.operation_id:
            raise self._lost()
        return self._polled()

    def _resumed(self) -> AbstractContextManager[Stream]:
        segments = ("v1", "orgs", self._org, "operations", self.operation_id, "events")
        return self._api.stream("GET", *segments, headers={"last-event-id": str(self._seq)})

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
            if name == "end":
                return {**self.last, **{key: value for key, value in event.items() if value not in ("", None)}}
            if self._seen(event):
                return event
        return None

    def _paused(self) -> Event | None:
        """A stream may also end, in good order, at a state that waits for an operator."""
        return self.last if self.last.get("phase") == PAUSED else None

    def _seen(self, event: Event) -> bool:
        """Shows one event, once; True when it is the final one."""
        seq = int(event.get("seq") or 0)
        if seq <= self._seq or not event.get("phase"):
            return False
        self._seq, self.last = seq, event
        self._name(str(event.get("operation_id", "")))
        self._ladder.show(event)
        return event["phase"] in FINAL

    def _polled(self) -> Event:
        self._ladder.note("the stream cannot be resumed, asking once a second")
        silent = 0
        while silent < _POLLS:
            try:
                operation = self._api.item("v1", "orgs", self._org, "operations", self.operation_id)
            except McpgError as exc:
                if exit_code(exc.code) != exit_code(Unreachable.code):
                    raise
                silent += 1
            else:
                silent = 0
                final = self._caught_up(operation)
                if final is not None:
                    return final
            self._pause(_POLL_S)
        raise self._lost()

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
        look = f"mcpg-ctl provision history --org {self._org} --verbose"
        if not self.operation_id:
            return Unreachable(
                f"the control plane at {self._api.url} took the request and closed the connection",
                cause="whether the operation was accepted is not known",
                hint=look,
            )
        return Unreachable(
            f"lost sight of operation {self.operation_id} after event {self._seq}",
            cause=f"the control plane at {self._api.url} no longer answers; the operation goes on where it lives",
            hint=look,
            operation_id=self.operation_id,
            seq=self._seq,
        )
