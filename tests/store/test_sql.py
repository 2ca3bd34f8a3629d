"""What a statement touches is read from its text: which statements of a batch may go together depends on it."""

from __future__ import annotations

from typing import Any

import pytest

from mcpg.store import journal, writes
from mcpg.store.journal import Also
from mcpg.store.postgres_reads import joined, may_go_together
from mcpg.store.sql import access, dollars, for_all, for_many, literal, marks, takes_many


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


TYPES = ("int8", "varchar")


def test_many_executions_become_one_statement() -> None:
    assert for_many("UPDATE t SET a=?1 WHERE id=?2 AND a<?1", TYPES) == (
        "UPDATE t SET a=w.p1 FROM ROWS FROM (json_to_recordset($1::json) AS (p1 int8,p2 varchar)) WITH ORDINALITY"
        " AS w(p1,p2,number) WHERE id=w.p2 AND a<w.p1"
    )
    assert for_many("INSERT INTO t(a,id) VALUES(?,?) ON CONFLICT DO NOTHING", TYPES, 3) == (
        "INSERT INTO t(a,id) SELECT w.p1,w.p2 FROM ROWS FROM (json_to_recordset($3::json) AS (p1 int8,p2 varchar))"
        " WITH ORDINALITY AS w(p1,p2,number) ORDER BY w.number ON CONFLICT DO NOTHING"
    )


def test_statements_of_several_texts_become_one_that_fails_where_a_row_is_not_found() -> None:
    parts = (("UPDATE t SET a=? WHERE id=?", TYPES, True), ("INSERT INTO u(id) VALUES(?)", ("text",), False))
    steps = [f"s{n} AS ({for_many(sql, types, n)} RETURNING 1)" for n, (sql, types, _) in enumerate(parts, 1)]
    found = "(SELECT count(*) FROM s1)=json_array_length($1::json)"
    assert for_all(parts) == f"WITH {','.join(steps)} SELECT 1/CAST((true AND {found}) AS int)"


def test_a_literal_is_one_whatever_is_in_it() -> None:
    assert literal("it's \\ here") == "'it''s \\ here'"


ALONE = {
    "what looks other rows up": SETTLE[0].sql,
    "what is found otherwise than by a row": "UPDATE agent SET pid=? WHERE host=?",
    "what is deleted": "DELETE FROM agent WHERE id=?",
    "a value that is worked out": "INSERT INTO t(id,a) VALUES(?,1)",
    "one key met on another": "INSERT INTO t(id,a) VALUES(?,?) ON CONFLICT(a) DO UPDATE SET id=excluded.id",
}


@pytest.mark.parametrize("case", ALONE)
def test_what_is_not_made_one_of_many(case: str) -> None:
    assert not takes_many(ALONE[case])
    assert takes_many(RESERVE[1].sql)
    assert takes_many(journal._update("operation", ("error", "code")))


def test_reads_that_may_go_together() -> None:
    assert may_go_together("SELECT * FROM t WHERE id=?")
    for sql in (
        "SELECT * FROM t WHERE a=? ORDER BY id", "SELECT 1 FROM t WHERE a=? LIMIT 1", "SELECT pg_notify(?,?)",
        "SELECT * FROM t WHERE id=? FOR UPDATE",
    ):  # fmt: skip
        assert not may_go_together(sql)
    assert joined("SELECT * FROM t WHERE a=?2 AND b=?1", TYPES) == (
        "SELECT w.number AS number_of_the_read, r.* FROM unnest($1::int8[],$2::varchar[]) WITH ORDINALITY AS w(p1,p2,number),"
        " LATERAL (SELECT * FROM t WHERE a=w.p2 AND b=w.p1) r"
    )
