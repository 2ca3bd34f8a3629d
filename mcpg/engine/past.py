"""
One subject's history as it is read, folded, and held against its row: what the row says that its lines do not. Called by
audit.py. Anything may stand anywhere in a database that was edited, so nothing here raises.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mcpg.engine.attempts import PAUSED
from mcpg.machines.chain import canonical
from mcpg.machines.replay import Fold, Rules
from mcpg.store import verify
from mcpg.store.journal import ROWS

Row = dict[str, Any]
SHOWN = 200  # characters of what was expected, and of what was found
CANCEL = "cancel"
ASKED = ("kind", "name", "instance_id")  # of an operation: columns that its first line says as they are


def plain(value: object) -> str:
    """*value* as text that can be sent, whatever it is."""
    text = value if isinstance(value, str) else repr(value)
    return text.encode("utf-8", "backslashreplace").decode()


@dataclass(frozen=True, slots=True)
class Found:
    """One thing that is not as it must be; see mcpg/wire/audit.py `Finding`."""

    kind: str
    subject: str
    what: str
    check: str = ""
    seq: int = 0
    expected: str = ""
    found: str = ""

    def as_text(self) -> Found:
        """The same, where a field was read from the database and is of another type."""
        return Found(
            self.kind, plain(self.subject), plain(self.what), self.check, self.seq if isinstance(self.seq, int) else 0,
            plain(self.expected)[:SHOWN], plain(self.found)[:SHOWN],
        )  # fmt: skip


class Past:
    """`subject` is as it is stored, a text unless somebody edited it; `last` is the newest line, with the row beside it."""

    def __init__(self, subject: Any, definitions: Mapping[str, Rules], under: Rules | None = None) -> None:
        self.subject = subject
        self.fold = Fold(plain(subject), definitions, under)
        self.last: Row = {}
        self._first: Row = {}
        self._told: list[Row] = []  # lines whose words a row may show: it paused there, or was cancelled

    def add(self, rows: list[Row]) -> None:
        """The next lines, at least one."""
        self._first = self._first or rows[0]
        self.last = rows[-1]
        self._told += [r for r in rows if r["dest"] == PAUSED != r["source"] or r["event"] == CANCEL]
        self.fold.feed(map(verify.entry_of, rows))

    def findings(self) -> list[Found]:
        """What is wrong with it, now that all its lines were added."""
        try:
            return list(self._findings())
        except Exception as exc:  # noqa: BLE001 - a database that was edited may hold anything anywhere
            return [self._row("its row cannot be read", "values of their types", exc)]

    def _findings(self) -> Iterator[Found]:
        fold, row = self.fold, self.last
        if not row["row_table"]:
            what = f"{row['seq']} line(s) of {plain(row['machine'])}, and no row they belong to"
            yield Found("orphan", fold.subject, what)
        elif not fold.finish(row["row_state"], row["row_version"], row["row_head"]):
            d = fold.divergence
            assert d is not None  # noqa: S101 - finish() said no
            yield Found("chain", fold.subject, d.why, d.check, d.seq, d.expected, d.found)
        elif ROWS.get(fold.machine) != row["row_table"] or row["row_machine"] not in (None, fold.machine):
            what = f"its lines are of {fold.machine}, its row is of {row['row_machine'] or row['row_table']}"
            yield Found("chain", fold.subject, what, "machine", 1)
        else:
            if row["row_created_at"] != fold.first_at:
                yield self._row("the row was not created with its first line", fold.first_at, row["row_created_at"])
            if row["row_table"] == "operation":
                yield from self._asked()
                yield from self._ended()

    def _row(self, what: str, expected: object, found: object) -> Found:
        return Found("chain", self.fold.subject, what, "row", self.fold.seq, str(expected), plain(found))

    def _asked(self) -> Iterator[Found]:
        """What was asked for stands in the first line, and never changes."""
        row, data = self.last, json.loads(self._first["data"])
        said: dict[str, Any] = {name: data[name] for name in ASKED if name in data}
        said["actor"] = self._first["actor"]
        if "spec" in data:
            said |= {"spec": canonical(data["spec"]), "retry_of": data.get("retry_of")}
        for name, value in said.items():
            if row[f"row_{name}"] != value:
                what = f"the row's {name} is not what its first line says"
                yield self._row(what, value or "(nothing)", row[f"row_{name}"] or "(nothing)")

    def _ended(self) -> Iterator[Found]:
        """When it ended, and what it says of that, stand in the line that ended it."""
        row, rules = self.last, self.fold.rules
        assert rules is not None  # noqa: S101 - a history that holds was judged by some
        is_over, finished = self.fold.state in rules.final, row["row_finished_at"]
        if is_over != (finished is not None):
            what = f"the row is {self.fold.state}, and " + (
                "does not say when it ended" if is_over else "says that it ended"
            )
            yield self._row(what, "a time" if is_over else "(nothing)", "(nothing)" if finished is None else finished)
        elif is_over and finished > row["at"]:
            yield self._row("the row ended after its last line", row["at"], finished)
        code, words = self._why(is_over)
        if row["row_code"] not in code:
            yield self._row("the row's code is not what its lines say", " or ".join(code), row["row_code"])
        if not any(_is_said(row["row_error"], each) for each in words):
            yield self._row("the row's error is not what its lines say", " or ".join(words), row["row_error"])

    def _why(self, is_over: bool) -> tuple[list[str], list[str]]:
        """The codes and the words that the row may show: those of the line that it rests at, or of the pauses it had."""
        told = [
            (str(_code(r) or ("cancelled" if r["event"] == CANCEL else "failed")), str(r["reason"])) for r in self._told
        ]
        if self.fold.state == PAUSED and told:  # a recovery that is paused from the start says no more than its line
            return ["", told[-1][0]], ["", told[-1][1]]
        code = _code(self.last) if is_over else None
        if code is not None:
            return [str(code)], [str(self.last["reason"]) or str(code)]
        return ["", *(code for code, _ in told)], ["", *(each for words in told for each in words)]


def _code(line: Row) -> Any:
    return json.loads(line["data"]).get("code")


def _is_said(error: Any, words: str) -> bool:
    """Whether *error* is *words*, or what is left of them without what stands in brackets: see effects.py."""
    if not isinstance(error, str):
        return False
    error = error.replace("\0", "\ufffd")  # as the journal writes it
    if error == words:
        return True
    head, _, tail = error.partition(": ")
    return bool(head and tail) and words.startswith(f"{head} (") and words.endswith(f"): {tail}")
