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
    """What a statement touches: all of `tables`; or, of one table, the rows with *column* equal to parameter number *param*."""

    tables: frozenset[str]
    column: str = ""
    param: int = -1

    def row(self, params: tuple[Any, ...]) -> tuple[str, Any] | None:
        """The column and its value, None for whole tables."""
        return (self.column, params[self.param]) if self.column else None


@lru_cache(maxsize=1024)
def access(sql: str) -> Access:
    """Of a statement that writes. A text that is not understood touches whole tables: slower, and never wrong."""
    tables = frozenset(name.lower() for name in _TABLES.findall(sql) if name.lower() != "set")
    if "SELECT" in sql.upper():
        return Access(tables)
    if insert := _INSERT.match(sql):
        columns = [c.strip() for c in insert[2].split(",")]
        column = "id" if "id" in columns else columns[0]
        return Access(tables, column, columns.index(column))
    if change := _CHANGE.match(sql):
        where, before = change[2], sql[: change.start(2)].count("?")
        blank = where
        while _NESTED.search(blank):
            blank = _NESTED.sub(lambda m: "_" * len(m[0]), blank)
        found = _ROW.search(blank)
        if found and not re.search(r"\bOR\b", blank, re.IGNORECASE):
            at = int(found[2]) - 1 if found[2] else before + where[: found.start(2)].count("?") - 1
            return Access(tables, found[1], at)
    return Access(tables)
