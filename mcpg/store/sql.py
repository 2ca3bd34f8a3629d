"""
One SQL text for two databases: what SQLite reads as it stands is read here for PostgreSQL, once for each text.

The texts keep to what both know: `?` or `?1` for parameters, no JSON functions, a cast where a parameter's type does not
follow from the column beside it, no boolean as a value. `access` says which rows a statement touches, so that a batch
may send many statements of one text together without changing what they do.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, NamedTuple

_PLACEHOLDER = re.compile(r"'[^']*'|\?(\d*)")
_TABLES = re.compile(r"\b(?:FROM|JOIN|UPDATE|INTO)\s+([a-z_]+)", re.IGNORECASE)
_INSERT = re.compile(r"INSERT INTO ([a-z_]+)\(([^)]*)\) VALUES\(([?\d,]*)\)", re.IGNORECASE)
_CHANGE = re.compile(r"(?:UPDATE|DELETE FROM) ([a-z_]+)\b.* WHERE (.*)$", re.IGNORECASE | re.DOTALL)
_ROW = re.compile(r"(?:^| AND )((?:instance_|cluster_)?id)=\?(\d*)", re.IGNORECASE)
_LOOKUP = re.compile(r"\(SELECT [a-z_]+ FROM ([a-z_]+) WHERE ((?:instance_)?id)=\?(\d+)\)")
_ADDS = re.compile(r"([a-z_]+)=\1[+-]")
_NESTED = re.compile(r"\([^()]*\)")


@lru_cache(maxsize=1024)
def dollars(sql: str) -> str:
    """*sql* with PostgreSQL's `$1` in place of `?` and `?1`."""
    count = 0

    def one(found: re.Match[str]) -> str:
        nonlocal count
        if found[0][0] == "'":
            return found[0]
        count += 1
        return f"${found[1] or count}"

    return _PLACEHOLDER.sub(one, sql)


def marks(values: list[str]) -> tuple[str, list[str]]:
    """
    `?,?,…` for an IN list and what to fill it with: the last value again up to a power of two, so that texts stay few.

    There must be at least one value.
    """
    size = 1 << (len(values) - 1).bit_length()
    return ",".join("?" * size), values + values[-1:] * (size - len(values))


class Access(NamedTuple):
    """
    One table that a statement touches: the rows with *column* equal to parameter number *param*, or all of it. `adds`: it
    does nothing but add to counters, and then it does not matter which of two comes first, unless one is refused.
    """

    table: str
    column: str = ""
    param: int = -1
    adds: bool = False

    def row(self, params: tuple[Any, ...]) -> tuple[str, Any] | None:
        """The column and its value, None for the whole table."""
        return (self.column, params[self.param]) if self.column else None


@lru_cache(maxsize=1024)
def access(sql: str) -> tuple[Access, ...]:
    """Of a statement that writes. A text that is not understood touches whole tables: slower, and never wrong."""
    looked_up = [Access(table, column, int(number) - 1) for table, column, number in _LOOKUP.findall(sql)]
    rest = _LOOKUP.sub(lambda found: "_" * len(found[0]), sql)
    if "SELECT" in rest.upper():
        return tuple(Access(name) for name in sorted({n.lower() for n in _TABLES.findall(sql)} - {"set"}))
    return (_changed(rest), *looked_up)


def _changed(sql: str) -> Access:
    """Of a statement without another in it."""
    if insert := _INSERT.match(sql):
        columns = [c.strip() for c in insert[2].split(",")]
        column = "id" if "id" in columns else columns[0]
        return Access(insert[1], column, columns.index(column))
    change = _CHANGE.match(sql)
    if change is None:
        return Access(next(iter(_TABLES.findall(sql)), ""))
    where, before = change[2], sql[: change.start(2)].count("?")
    sets = _blank(sql[change.end(1) : change.start(2)]).strip().removeprefix("SET ").removesuffix(" WHERE")
    adds = sql.startswith("UPDATE") and all(_ADDS.match(each.strip()) for each in sets.split(","))
    flat = _blank(where)
    found = _ROW.search(flat)
    if found is None or re.search(r"\bOR\b", flat, re.IGNORECASE):
        return Access(change[1], adds=adds)
    at = int(found[2]) - 1 if found[2] else before + where[: found.start(2)].count("?") - 1
    return Access(change[1], found[1], at, adds)


def _blank(text: str) -> str:
    """*text* with everything in parentheses blanked, as long as it was."""
    while _NESTED.search(text):
        text = _NESTED.sub(lambda found: "_" * len(found[0]), text)
    return text
