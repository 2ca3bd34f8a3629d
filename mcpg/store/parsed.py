"""
JSON columns of a row, parsed. What is no JSON was written by somebody else than us: `parsed` refuses such a row, `readable`
leaves it out and says so, for those who show what there is, `undamaged` leaves it alone, for those who go on with all.
"""

from __future__ import annotations

import json
import logging
from typing import Any, Final

from mcpg.errors import Damaged
from mcpg.store.database import Row

log = logging.getLogger("mcpg.store")

_TOLD: set[str] = set()  # ids of rows that were logged
_JSON: Final = frozenset({"spec", "previous", "endpoints", "host", "facts", "data"})
_OBJECTS: Final = frozenset({"spec", "facts", "data"})


def parsed(row: Row) -> Row:
    """Raises Damaged, which names the row and the column."""
    try:
        return {k: _load(k, v) if k in _JSON and v is not None else v for k, v in row.items()}
    except (ValueError, TypeError, RecursionError):
        raise _damaged(row, ", ".join(_unreadable(row))) from None


def readable(row: Row) -> Row:
    """As `parsed`; a column that is no JSON is empty, and named in `damaged`."""
    lost = _unreadable(row)
    return parsed({k: "{}" if k in _OBJECTS and k in lost else None if k in lost else v for k, v in row.items()}) | {
        "damaged": lost
    }


def undamaged(rows: list[Row]) -> list[Row]:
    """Those that `parsed` takes: one that nobody can read must not keep the others waiting. It is logged, once."""
    taken: list[Row] = []
    for row in rows:
        try:
            taken.append(parsed(row))
        except Damaged as exc:
            if row["id"] not in _TOLD:
                _TOLD.add(row["id"])
                log.error("%s, and is left alone: %s; mcpg-ctl audit verify", exc.what, exc.cause)  # noqa: TRY400
    return taken


def _load(column: str, text: Any) -> Any:
    value = json.loads(text)
    if column in _OBJECTS and not isinstance(value, dict):
        raise ValueError(f"{column} is no JSON object")
    return value


def _unreadable(row: Row) -> list[str]:
    return [k for k, v in row.items() if k in _JSON and v is not None and not _can(k, v)]


def _can(column: str, text: Any) -> bool:
    try:
        _load(column, text)
    except (ValueError, TypeError, RecursionError):
        return False
    return True


def _damaged(row: Row, columns: str) -> Damaged:
    is_line = "seq" in row
    what = f"line {row['seq']} of {row['subject']}" if is_line else f"the row of {row.get('id') or 'a gateway'}"
    return Damaged(
        f"{what} is damaged: it cannot be read",
        cause=f"its {columns} is no JSON; mcpg-ctl never writes that",
        hint="mcpg-ctl audit verify      what can be read of an operation: mcpg-ctl operation show ID",
    )
