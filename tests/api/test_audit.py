"""`/v1/audit/verify` and `/v1/machines/upgrade-check`: a database that was tampered with is found out, and where."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from mcpg.engine.audit import judge_all, verify_journal
from mcpg.machines import TABLES, provision
from mcpg.machines.chain import entry_hash
from mcpg.machines.replay import rules, rules_of
from mcpg.store import verify

from ..conftest import Plane, StartPlane

Page = dict[str, Any]


async def audit(plane: Plane, **query: str) -> Page:
    return (await plane.client.get("/v1/audit/verify", params=query)).raise_for_status().json()


async def test_what_nobody_tampered_with_is_clean(lived: Plane) -> None:
    found = await audit(lived)
    assert (found["findings"], found["found"], found["next"]) == ([], 0, "")
    rows = await lived.db.rows("SELECT count(*) AS lines, count(DISTINCT subject) AS subjects FROM journal")
    assert {"lines": found["lines"], "subjects": found["subjects"]} == rows[0]


async def edit(plane: Plane, *statements: tuple[str, tuple[Any, ...]]) -> None:
    """What an operator with an editor of databases does."""
    for sql, params in statements:
        await plane.edit(sql, *params)


GONE = "DELETE FROM journal WHERE subject=? AND seq=?"
LINE = "UPDATE journal SET {} WHERE subject=? AND seq=?"
TAMPERED: dict[str, tuple[list[tuple[str, bool]], tuple[str, str, int], str]] = {
    "a row's state": ([("UPDATE operation SET state='paused' WHERE id=?", False)], ("chain", "row", 5), "the row says paused"),
    "a row's version": ([("UPDATE operation SET version=9 WHERE id=?", False)], ("chain", "row", 5), "its last line is 5"),
    "a row's head": ([("UPDATE operation SET head_hash='0' WHERE id=?", False)], ("chain", "row", 5), "head is not the hash"),
    "a reason": ([(LINE.format("reason='because'"), True)], ("chain", "hash", 3), "changed after it was written"),
    "facts": ([(LINE.format("""facts='{"replicas":9}'"""), True)], ("chain", "hash", 3), "changed after"),
    "an actor": ([(LINE.format("actor='nobody'"), True)], ("chain", "hash", 3), "changed after"),
    "a time": ([(LINE.format("at=at+1"), True)], ("chain", "hash", 3), "changed after"),
    "a time long ago": ([(LINE.format("at=5"), True)], ("chain", "time", 3), "before the last"),
    "a destination": ([(LINE.format("dest='ready'"), True)], ("chain", "dest", 3), "reserved leads from"),
    "an event": ([(LINE.format("event='undone'"), True)], ("chain", "move", 3), "has no move undone"),
    "a definition": ([(LINE.format("definition='0'"), True)], ("chain", "definition", 3), "is not known"),
    "a line that is gone": ([(GONE, True)], ("chain", "sequence", 3), "line 3 is missing"),
    "every line gone": ([("DELETE FROM journal WHERE subject=?", False)], ("silent", "", 0), "not one line of it"),
    "a row that is gone": ([("DELETE FROM operation WHERE id=?", False)], ("orphan", "", 0), "no row they belong to"),
}  # fmt: skip


@pytest.mark.parametrize("database", ["sqlite"])
async def test_a_number_that_is_none_is_found_where_a_column_takes_it(lived: Plane) -> None:
    """PostgreSQL does not."""
    await edit(
        lived,
        (LINE.format("at='soon'"), ((await lived.db.rows("SELECT id FROM operation WHERE name='edge-2'"))[0]["id"], 3)),
    )
    [finding] = [f for f in (await audit(lived))["findings"] if f["kind"] == "chain"]
    assert (finding["check"], finding["seq"]) == ("value", 3)
    assert "cannot be read" in finding["what"]


@pytest.mark.parametrize("case", TAMPERED)
async def test_what_was_tampered_with_is_found_and_named(lived: Plane, case: str) -> None:
    statements, (kind, check, seq), words = TAMPERED[case]
    [row] = await lived.db.rows("SELECT id FROM operation WHERE name='edge-2'")
    await edit(lived, *((sql, (row["id"], 3) if of_line else (row["id"],)) for sql, of_line in statements))
    found = await audit(lived)
    mine = [f for f in found["findings"] if f["subject"] == row["id"]]
    chains = [f for f in mine if f["kind"] in ("chain", "silent", "orphan")]
    assert [(f["kind"], f["check"], f["seq"]) for f in chains] == [(kind, check, seq)]
    assert words in chains[0]["what"]


async def test_two_lines_in_each_others_place(lived: Plane) -> None:
    [row] = await lived.db.rows("SELECT id FROM operation WHERE name='edge-2'")
    move = "UPDATE journal SET seq=? WHERE subject=? AND seq=?"
    await edit(lived, (move, (99, row["id"], 3)), (move, (3, row["id"], 4)), (move, (4, row["id"], 99)))
    [found] = (await audit(lived))["findings"]
    assert (found["subject"], found["check"], found["seq"]) == (row["id"], "source", 3)


async def test_a_history_that_was_rewritten_whole_is_found_by_its_row(lived: Plane) -> None:
    [row] = await lived.db.rows("SELECT id FROM operation WHERE name='edge-2'")
    page = await verify.page(lived.db, {"subject": row["id"], "seq": 0}, 100)
    rows = [r for r in page if r["subject"] == row["id"]]
    before = ""
    for r in rows:
        entry = verify.entry_of(r)._replace(actor="somebody else", prev_hash=before)
        before = entry_hash(row["id"], entry)
        sql = "UPDATE journal SET actor=?, prev_hash=?, hash=? WHERE subject=? AND seq=?"
        await edit(lived, (sql, (entry.actor, entry.prev_hash, before, row["id"], entry.seq)))
    [found] = (await audit(lived))["findings"]
    assert (found["check"], found["what"]) == ("row", "the row's head is not the hash of its last line")


BETWEEN = {
    "a counter off by one": ("UPDATE cluster SET gateways_used=gateways_used+1 WHERE name='us-1'", "counters"),
    "cpu that nobody holds": ("UPDATE cluster SET cpu_millicores_used=7 WHERE name='us-1'", "counters"),
    "an operation that is over": (
        "UPDATE instance SET operation_id=(SELECT id FROM operation WHERE name='edge-2') WHERE name='edge-1'",
        "occupation",
    ),
    "an operation that never was": ("UPDATE instance SET operation_id='op-0' WHERE name='edge-1'", "occupation"),
    "an operation that nobody waits for": ("UPDATE operation SET finished_at=NULL WHERE name='edge-2'", "operation"),
    "a lease of what is over": ("UPDATE operation SET lease_owner='e-1' WHERE name='edge-2'", "lease"),
    "room of a gateway that is gone": ("UPDATE instance SET deleted_at=1 WHERE name='edge-1'", "reservation"),
    "room in a cluster that is gone": ("UPDATE reservation SET cluster_id='gone'", "placement"),
    "a definition": ("UPDATE definition SET body=replace(body,'60','61') WHERE machine='provision'", "definition"),
}


@pytest.mark.parametrize("case", BETWEEN)
async def test_rows_that_contradict_each_other_are_found(lived: Plane, case: str) -> None:
    sql, kind = BETWEEN[case]
    await edit(lived, (sql, ()))
    found = await audit(lived)
    assert kind in {f["kind"] for f in found["findings"]}
    assert found["found"] >= 1


async def test_it_ends_after_some_lines_and_goes_on_where_it_was(lived: Plane) -> None:
    """Whatever the size of a page or of an answer, every line is looked at once."""
    whole = await verify_journal(lived.db, "", 100)
    for page in (1, 2, 3, 7):
        after, lines, subjects, answers = "", 0, 0, 0
        for _ in range(500):
            part = await verify_journal(lived.db, after, 100, lines=5, page=page)
            lines, subjects, answers = lines + part.lines, subjects + part.subjects, answers + 1
            after = part.next
            if not after:
                break
        assert not after, "it came to its end"
        assert (subjects, answers > 3) == (whole.subjects, True)
        assert lines == whole.lines


async def test_findings_are_counted_beyond_those_listed(lived: Plane) -> None:
    await edit(lived, ("UPDATE journal SET reason=reason||'!' WHERE seq=2", ()))
    found = await audit(lived, limit="2")
    assert (len(found["findings"]), found["found"] > 2) == (2, True)


async def test_it_can_be_asked_while_everything_moves(lived: Plane) -> None:
    """Lines that are written meanwhile are no findings, nor is a row that moves between two reads."""

    async def publish(n: int) -> None:
        await lived.publish(f"more-{n}")

    async def look() -> list[Page]:
        return [f for _ in range(10) for f in (await verify_journal(lived.db, "", 100, page=2)).findings]  # type: ignore[misc]

    found, *_ = await asyncio.gather(look(), *(publish(n) for n in range(12)))
    assert found == []


async def test_a_query_it_does_not_know_is_refused(plane: Plane) -> None:
    assert (await plane.client.get("/v1/audit/verify?from=1")).status_code == 400


# ---- upgrades


async def check(plane: Plane, definition: Any, **query: str) -> Page:
    sent = json.dumps({"definition": definition})
    answer = await plane.client.post("/v1/machines/upgrade-check", content=sent, params=query)
    return answer.raise_for_status().json()


def other(**changes: Any) -> dict[str, Any]:
    return provision.MACHINE.definition() | changes


async def test_the_definition_that_runs_replays_everything(lived: Plane) -> None:
    for table in TABLES.values():
        found = await check(lived, table.definition())
        assert (found["differs"], found["stuck"], found["findings"]) == (0, 0, [])
        assert (found["before"], found["after"]) == (table.label, table.label)
        assert found["subjects"] == found["replayable"]


async def test_what_would_have_gone_another_way_is_named_with_the_line(lived: Plane) -> None:
    moves = provision.MACHINE.definition()["moves"]
    wary = [m for m in moves if m[:2] != ["allocating", "no_capacity"]]
    found = await check(lived, other(moves=wary))
    [one] = found["findings"]
    assert (one["name"], one["live"], one["verdict"], one["seq"]) == ("edge-3", False, "differs", 3)
    assert "has no move no_capacity from allocating" in one["why"]
    assert found["live_stuck"] == 0


async def test_what_lives_and_would_be_stuck_is_counted(lived: Plane, start_plane: StartPlane) -> None:
    await edit(lived, ("UPDATE operation SET state='paused', finished_at=NULL WHERE name='edge-2'", ()))
    d = provision.MACHINE.definition()
    found = await check(lived, other(moves=[m for m in d["moves"] if m[0] != "paused"]))
    assert (found["live"], found["live_stuck"]) == (1, 1)
    assert (found["findings"][0]["name"], found["findings"][0]["verdict"]) == ("edge-2", "stuck")


async def test_what_is_no_definition_is_refused(plane: Plane) -> None:
    for body in ({}, {"definition": []}, {"definition": {"name": "provision"}}, {"definition": other(name="washing")}):
        answer = await plane.client.post("/v1/machines/upgrade-check", json=body)
        assert answer.status_code in (400, 404), answer.text
        assert answer.json()["title"]
    large = {"definition": other(facts=["x" * 1100 * 1024])}
    assert (await plane.client.post("/v1/machines/upgrade-check", json=large)).status_code == 400


async def test_judging_goes_on_where_it_was(lived: Plane) -> None:
    new = rules(provision.MACHINE.canonical)
    whole = await judge_all(lived.db, new, "", 100)
    after, subjects = "", 0
    for _ in range(500):
        part = await judge_all(lived.db, new, after, 100, lines=3, page=2)
        subjects, after = subjects + part.subjects, part.next
        if not after:
            break
    assert not after, "it came to its end"
    assert subjects == whole.subjects == whole.replayable == 5


async def test_definitions_are_found_by_name_label_and_hash(plane: Plane) -> None:
    listed = (await plane.client.get("/v1/machines/definitions")).json()
    assert {d["definition"] for d in listed} == {t.label for t in TABLES.values()}
    mine = provision.MACHINE
    for ref in ("provision", mine.label, mine.definition_hash, mine.definition_hash[:8]):
        found = (await plane.client.get(f"/v1/machines/definitions/{ref}")).json()
        assert (found["hash"], found["is_current"], found["body"]) == (mine.definition_hash, True, mine.canonical)
        assert rules_of(json.loads(found["body"])).digest == mine.definition_hash
    refused = await plane.client.get("/v1/machines/definitions/washing")
    assert (refused.status_code, "definitions here" in refused.json()["detail"]) == (404, True)
