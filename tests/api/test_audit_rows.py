"""`/v1/audit/verify`: what a row says beside its state is held against its lines, and what cannot be read is a finding."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from typing import Any

import pytest

from mcpg.engine.audit import verify_journal
from tests.conftest import Plane, StartPlane
from tests.engine.fakes import Scripted

Page = dict[str, Any]


async def audit(plane: Plane, **query: str) -> Page:
    return (await plane.client.get("/v1/audit/verify", params=query)).raise_for_status().json()


async def operation_id(plane: Plane, name: str) -> str:
    [row] = await plane.db.rows("SELECT id FROM operation WHERE name=? AND kind='create'", name)
    return str(row["id"])


ROW = "UPDATE operation SET {} WHERE id=?"
EDITS = {  # of the row of a create that is ready
    "kind": ("kind='delete'", "the row's kind is not what its first line says"),
    "name": ("name='mallory'", "the row's name is not what its first line says"),
    "actor": ("actor='mallory'", "the row's actor is not what its first line says"),
    "spec": ("spec=replace(spec,'\"replicas\":1','\"replicas\":3')", "the row's spec is not what its first line says"),
    "spec, not JSON": ("spec='{'", "the row's spec is not what its first line says"),
    "gateway": ("instance_id='somewhere'", "the row's instance_id is not what its first line says"),
    "retry of": ("retry_of='op-x'", "the row's retry_of is not what its first line says"),
    "machine": ("machine=''", "its lines are of provision, its row is of operation"),
    "created": ("created_at=created_at-1", "the row was not created with its first line"),
    "finished later": ("finished_at=finished_at+86400000000", "the row ended after its last line"),
    "never finished": ("finished_at=NULL", "the row is ready, and does not say when it ended"),
    "error": ("error='lies'", "the row's error is not what its lines say"),
    "code": ("code='lies'", "the row's code is not what its lines say"),
}


@pytest.mark.parametrize("case", EDITS)
async def test_a_row_that_says_what_its_lines_do_not_is_found(plane: Plane, case: str) -> None:
    sets, words = EDITS[case]
    await plane.publish("edge-1")
    assert (await audit(plane))["findings"] == []
    mine = await operation_id(plane, "edge-1")
    await plane.edit(ROW.format(sets), mine)
    chains = [f for f in (await audit(plane))["findings"] if f["kind"] == "chain"]
    assert [(f["subject"], f["what"]) for f in chains] == [(mine, words)]


@pytest.mark.parametrize("column", ["error", "code"])
async def test_why_an_operation_failed_is_held_against_its_last_line(lived: Plane, column: str) -> None:
    mine = await operation_id(lived, "edge-3")  # no cluster could take it
    assert (await audit(lived))["findings"] == []
    await lived.edit(ROW.format(f"{column}='too large: nothing to see'"), mine)
    [found] = (await audit(lived))["findings"]
    assert (found["subject"], found["what"]) == (mine, f"the row's {column} is not what its lines say")


@pytest.mark.parametrize("column", ["error", "code"])
async def test_why_an_operation_paused_is_held_against_the_line_that_paused_it(
    start_plane: StartPlane, column: str
) -> None:
    scripted = Scripted()
    scripted.hold = asyncio.Event()
    async with start_plane(given=scripted, apply_timeout_s=0.05) as plane:
        await plane.publish("edge-1")
        mine = await operation_id(plane, "edge-1")
        assert (await plane.operation(mine))["state"] == "paused"
        assert (await audit(plane))["findings"] == []
        await plane.edit(ROW.format(f"{column}='lies'"), mine)
        [found] = (await audit(plane))["findings"]
        assert found["what"] == f"the row's {column} is not what its lines say"
        scripted.hold.set()


async def test_room_that_nobody_holds_any_more_is_missed(plane: Plane) -> None:
    """Also where the counters were set back with the reservations."""
    uid = (await plane.publish("edge-1"))[-1]["coords"]["instance_uid"]
    await plane.edit("DELETE FROM reservation")
    await plane.edit("UPDATE cluster SET gateways_used=0,cpu_millicores_used=0,memory_bytes_used=0")
    [found] = (await audit(plane))["findings"]
    assert (found["kind"], found["subject"]) == ("room", uid)
    assert "holds no room there" in found["what"]


async def test_a_line_before_all_others_is_looked_at(plane: Plane) -> None:
    await plane.edit(
        "INSERT INTO journal(machine,subject,seq,event,source,dest,actor,reason,facts,data,definition,prev_hash,hash,at)"
        " SELECT machine,'',0,event,source,dest,actor,reason,facts,data,definition,prev_hash,hash,at FROM journal WHERE seq=1"
    )
    [found] = (await audit(plane))["findings"]
    assert (found["kind"], found["subject"]) == ("orphan", "")


LINE = "UPDATE journal SET {} WHERE subject=:id AND seq=3"
ODD = {  # what SQLite takes in any column, and where it is found
    "a hash of bytes": (LINE.format("hash=x'00ff'"), "chain", "hash"),
    "a reason of bytes": (LINE.format("reason=x'ff00'"), "chain", "value"),
    "a reason that is no UTF-8": (LINE.format("reason=CAST(x'ff41' AS TEXT)"), "chain", "hash"),
    "a number that is a text": (LINE.format("seq='soon'"), "chain", "sequence"),
    "a machine of bytes": ("UPDATE journal SET machine=x'ff' WHERE subject=:id", "chain", "machine"),
    "a definition of bytes": (LINE.format("definition=x'ff'"), "chain", "definition"),
    "facts without an end": ("UPDATE journal SET facts=:nested WHERE subject=:id AND seq=5", "chain", "value"),
    "a subject of bytes": ("UPDATE journal SET subject=CAST(subject AS BLOB) WHERE subject=:id", "orphan", ""),
    "a subject that is no UTF-8": (
        "UPDATE journal SET subject=CAST(x'6fff' AS TEXT) WHERE subject=:id AND seq=5", "orphan", "",
    ),
    "a head of bytes": ("UPDATE operation SET head_hash=x'ff' WHERE id=:id", "chain", "row"),
    "a version of bytes": ("UPDATE operation SET version=x'ff' WHERE id=:id", "chain", "row"),
    "an error of bytes": ("UPDATE operation SET error=x'ff' WHERE id=:id", "chain", "row"),
    "an end of bytes": ("UPDATE operation SET finished_at=x'ff' WHERE id=:id", "chain", "row"),
    "a definition's text of bytes": ("UPDATE definition SET body=x'ff' WHERE machine='provision'", "definition", ""),
    "a definition's text that is no UTF-8": (
        "UPDATE definition SET body=CAST(x'ff' AS TEXT) WHERE machine='provision'", "definition", "",
    ),
    "a definition of half a character": (
        "UPDATE definition SET body=replace(body,'\"birth\"','\"also\":\"\\ud800\",\"birth\"')", "definition", "",
    ),
    "room that cannot be added up": (
        "INSERT INTO reservation(instance_id,cluster_id,places,operation_id) SELECT 'i'||value,c.id,9223372036854775807,''"
        " FROM cluster c, json_each('[1,2]') WHERE c.name='us-1'", "unreadable", "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("database", ["sqlite"])
@pytest.mark.parametrize("case", ODD)
async def test_what_cannot_be_read_is_a_finding_and_hides_no_other(lived: Plane, case: str) -> None:
    sql, kind, check = ODD[case]
    await lived.edit(
        "UPDATE journal SET reason='because' WHERE seq=3 AND subject=?", await operation_id(lived, "edge-4")
    )
    values = {"id": await operation_id(lived, "edge-2"), "nested": "[" * 2000}
    with closing(sqlite3.connect(lived.db.shown, isolation_level=None)) as db:
        assert db.execute(sql, values).rowcount > 0
    found = (await audit(lived, limit="1000"))["findings"]
    assert (kind, check) in {(f["kind"], f["check"]) for f in found}
    assert await operation_id(lived, "edge-4") in {f["subject"] for f in found}


@pytest.mark.parametrize("database", ["sqlite"])
@pytest.mark.parametrize("subject", ["CAST('o'||id AS BLOB)", "CAST(x'6fff' AS TEXT)||id"])
async def test_lines_without_a_place_in_the_order_are_read_once_each(lived: Plane, subject: str) -> None:
    """However they are split into pages and answers."""
    await lived.edit(f"UPDATE journal SET subject={subject} WHERE seq>2")  # noqa: S608 - one of the two
    lines = (await lived.db.rows("SELECT count(*) AS number FROM journal"))[0]["number"]
    for page in (1, 2, 7, 400):
        after, read = "", 0
        for _ in range(100):
            part = await verify_journal(lived.db, after, 1000, lines=5, page=page)
            after, read = part.next, read + part.lines
            if not after:
                break
        assert (after, read) == ("", lines)
