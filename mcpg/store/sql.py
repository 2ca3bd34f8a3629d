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
_MEETS = re.compile(r"ON CONFLICT\s*\(([^)]*)\)\s*DO UPDATE", re.IGNORECASE)
_NESTED = re.compile(r"\([^()]*\)")


@lru_cache(maxsize=1024)
def dollars(sql: str) -> str:
    """*sql* with PostgreSQL's `$1` in place of `?` and `?1`."""
    return placed(sql, "$")


def placed(sql: str, name: str) -> str:
    """*sql* with *name* and a number, counted from 1, in place of `?` and `?1`."""
    count = 0

    def one(found: re.Match[str]) -> str:
        nonlocal count
        if found[0][0] == "'":
            return found[0]
        count += 1
        return f"{name}{found[1] or count}"

    return _PLACEHOLDER.sub(one, sql)


@lru_cache(maxsize=1024)
def takes_many(sql: str) -> bool:
    """Whether `for_many` can make one of many executions of *sql*, as long as no two touch one row."""
    if insert := _INSERT.match(sql):
        tail = sql[insert.end() :]
        meets = _MEETS.search(
            tail
        )  # of two with one key the second would have to change what the first has just written
        is_known = meets is None or meets[1].strip() == access(sql)[0].column
        return is_known and insert[3].replace("?", "").strip(",") == "" and "?" not in tail
    where = sql.partition(" WHERE ")[2]
    return sql.startswith("UPDATE ") and "SELECT" not in sql.upper() and "?" in where and access(sql)[0].column != ""


def for_many(sql: str, types: tuple[str, ...], param: int = 1) -> str:
    """
    One statement that does in order what many executions of *sql* do. Their parameters, of *types* each, are its parameter
    number *param*: a JSON list of `{"p1": …, "p2": …}`. So one text does for any number of them.
    """
    names = [f"p{number}" for number in range(1, len(types) + 1)]
    columns = ",".join(f"{name} {type_}" for name, type_ in zip(names, types, strict=True))
    rows = f"ROWS FROM (json_to_recordset(${param}::json) AS ({columns}))"
    many = f"{rows} WITH ORDINALITY AS w({','.join(names)},number)"
    if insert := _INSERT.match(sql):
        head, tail = sql[: insert.start(3)].rpartition(" VALUES(")[0], sql[insert.end() :]
        return f"{head} SELECT {placed(insert[3], 'w.p')} FROM {many} ORDER BY w.number{tail}"  # noqa: S608
    change, _, where = placed(sql, "w.p").partition(" WHERE ")
    return f"{change} FROM {many} WHERE {where}"


Part = tuple[str, tuple[str, ...], bool]  # a text, the types of its parameters, and whether each must find its row


@lru_cache(maxsize=512)
def for_all(parts: tuple[Part, ...]) -> str:
    """
    One statement that does what the executions of several texts do, of which no two touch one row; each text has one
    parameter, as `for_many` says. It fails, with a division by zero, where not every execution found its row that must.
    """
    steps, found = [], ["true"]
    for number, (sql, types, must) in enumerate(parts, 1):
        steps.append(f"s{number} AS ({for_many(sql, types, number)} RETURNING 1)")
        if must:
            found.append(f"(SELECT count(*) FROM s{number})=json_array_length(${number}::json)")  # noqa: S608
    return f"WITH {','.join(steps)} SELECT 1/CAST(({' AND '.join(found)}) AS int)"


def literal(text: str) -> str:
    """*text* as SQL has it, where a backslash is one: `standard_conforming_strings`."""
    return "'" + text.replace("'", "''") + "'"


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
