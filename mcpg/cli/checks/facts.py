"""
What a check is given and what it gives back: `Facts`, in which whatever several checks need is asked once, and `Verdict`.

A check reads and asks; it never writes, and nothing it starts outlives it.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from mcpg.cli import credentials, database, inputs, running
from mcpg.cli.client import Api, RemoteError, is_guarded, plain
from mcpg.cli.resolve import Values
from mcpg.errors import McpgError

ANSWER_S = 1.5  # for one request: less than a check's own two seconds, so that it can say what did not answer


class Verdict(NamedTuple):
    """`status` is pass, warn, fail or skip; `fix` a command that can be pasted; it and `detail` hold no secret."""

    status: str
    detail: str
    fix: str = ""


class Skip(Exception):
    """The check has nothing to look at; the words say why."""


def good(detail: str) -> Verdict:
    return Verdict("pass", detail)


def note(detail: str, fix: str) -> Verdict:
    """Something may break, and the reader can do something about it."""
    return Verdict("warn", detail, fix)


def bad(detail: str, fix: str) -> Verdict:
    return Verdict("fail", detail, fix)


class Server(NamedTuple):
    """What answered at the control plane's URL: its `meta`, or the `problem` instead; `took_ms` for the answer."""

    meta: dict[str, Any]
    problem: McpgError | None
    took_ms: float


class Facts:
    """The resolved options of this run and what is found by them, each found once, by whichever check asks first."""

    def __init__(self, values: Values, *, asked_context: str | None = None) -> None:
        """*asked_context*: the one that was asked for and cannot be used, in which case *values* are without any."""
        self.values = values
        self.asked_context = values.stored.name if values.stored else asked_context
        self.state_dir: Path = values.state_dir

    def close(self) -> None:
        """Ends the connections, also under a check that still waits for an answer."""
        if "api" in self.__dict__:
            self.api.close()

    @cached_property
    def local(self) -> running.Local:
        """The control plane of the state directory."""
        return running.look(self.state_dir, answer_s=ANSWER_S)

    @cached_property
    def place(self) -> database.Place:
        return database.place(self.values.db_url, self.state_dir, running.record(self.state_dir))

    @cached_property
    def api(self) -> Api:
        """
        With the session or the stored login, which is not renewed; without either where they cannot be used, as their
        own checks say. Raises Usage for a URL that cannot be used.
        """
        values, cookie, source, login = self.values, "", "", None
        with contextlib.suppress(McpgError):
            cookie, source = inputs.session(values)
            login = None if cookie else self._login()
        return Api(
            values.cp_url,
            url_source=values.source("cp_url"),
            cookie=cookie,
            cookie_source=source,
            login=login,
            answer_s=ANSWER_S,
        )

    def _login(self) -> credentials.Credential | None:
        """The stored login as it is: renewing it, as other commands do, would write."""
        stored = credentials.load(self.state_dir)
        if stored is None or not is_guarded(self.values.cp_url):
            return None
        words = f"the stored login of {stored.identity}"
        headers = {"authorization": f"Bearer {plain(stored.id_token, words)}"}
        return credentials.Credential(path=credentials.path(self.state_dir), headers=headers, words=words, hint="")

    @cached_property
    def server(self) -> Server:
        """The control plane that the client commands talk to: not always that of this state directory."""
        import time

        began = time.monotonic()
        try:
            meta, problem = self.api.item("v1", "meta"), None
        except McpgError as exc:
            meta, problem = {}, exc
        return Server(meta, problem, (time.monotonic() - began) * 1000)

    @property
    def answers(self) -> bool:
        """Whether a control plane answers at the URL."""
        return self.server.problem is None and isinstance(self.server.meta.get("version"), str)

    def need_server(self) -> Server:
        """Raises Skip when no control plane answers: its own check says so."""
        if not self.answers:
            raise Skip("no control plane answers")
        return self.server

    def ask(self, *segments: str, **query: str) -> list[dict[str, Any]]:
        """A list of the API. Raises Skip for a server that does not answer, may not tell us, or does not know it."""
        self.need_server()
        try:
            return self.api.items(*segments, **query)
        except RemoteError as exc:
            raise Skip(f"the control plane does not say: {exc.what}") from None
        except McpgError as exc:
            if not exc.cause.startswith("it has no route"):
                raise
            raise Skip(exc.what) from None

    @contextlib.contextmanager
    def db(self) -> Iterator[sqlite3.Connection]:
        """The database, read-only. Raises Skip where there is none to read, StateDirUnusable when it cannot be."""
        if self.place.path is None:
            raise Skip(f"{self.place.shown} is no SQLite file: only its server reads it")
        if not self.place.exists:
            raise Skip(f"none yet at {self.place.shown}")
        with database.opened(self.place.path) as connection:
            yield connection
