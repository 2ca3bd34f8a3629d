"""What a statement touches is read from its text: which statements of a batch may go together depends on it."""

from __future__ import annotations

from typing import Any

import pytest

from mcpg.store import journal, writes
from mcpg.store.journal import Also
from mcpg.store.sql import access, dollars, marks


def touches(also: Also) -> list[tuple[str, Any, bool]]:
    return [(each.table, each.row(also.params), each.adds) for each in access(also.sql)]


RESERVE = writes.reserve("c", "i", "o", (1, 2, 3))
SETTLE = writes.settle("i", (1, 2, 3))
SEEN = {
    "one row": (writes.hide_endpoints("i"), [("instance", ("id", "i"), False)]),
    "one row, by a number": (RESERVE[0], [("cluster", ("id", "c"), True)]),
    "a new row": (RESERVE[1], [("reservation", ("instance_id", "i"), False)]),
    "what it looks up": (SETTLE[0], [("cluster", None, True)] + [("reservation", ("instance_id", "i"), False)] * 4),
    "by another column": (writes.forget_refusals("i"), [("agent", ("instance_id", "i"), False)]),
    "a guard with OR inside": (writes.use_token("t", 1), [("bootstrap_token", ("id", "t"), True)]),
    "rows found elsewhere": (
        writes.departed_only("i"), [("agent", None, False), ("instance", None, False)]
    ),
    "one of two": (Also("UPDATE agent SET pid=? WHERE id=? OR pid=?", (1, "a", 2)), [("agent", None, False)]),
    "all": (Also("DELETE FROM agent"), [("agent", None, False)]),
    "not only adding": (
        Also("UPDATE agent SET pid=pid+1,host=? WHERE id=?", ("h", "a")), [("agent", ("id", "a"), False)]
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SEEN)
def test_what_a_statement_touches(case: str) -> None:
    also, expected = SEEN[case]
    assert touches(also) == expected


def test_the_journals_own_statements_touch_their_row() -> None:
    update = journal._update("operation", ("error", "code"))
    [touched] = access(update)
    assert (touched.table, touched.row((*range(11), "op-1", 4))) == ("operation", ("id", "op-1"))
    [touched] = access(journal._insert("agent", ("pid",)))
    assert touched.row(("a-1", *range(7))) == ("id", "a-1")


def test_placeholders() -> None:
    assert dollars("SELECT '?' WHERE a=? AND b=?") == "SELECT '?' WHERE a=$1 AND b=$2"
    assert dollars("WHERE a=?2 AND b=?1 AND c=?2") == "WHERE a=$2 AND b=$1 AND c=$2"


def test_an_in_list_has_few_lengths() -> None:
    assert marks(["a"]) == ("?", ["a"])
    assert marks(["a", "b", "c"]) == ("?,?,?,?", ["a", "b", "c", "c"])
