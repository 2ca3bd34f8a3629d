"""`/v1/operations/:id/explain`: what an operation waits for, which guard says no, and why nobody drives it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mcpg.engine.audit import stranded
from mcpg.engine.ports import Answer, Order, Placed
from mcpg.errors import TemporaryError
from mcpg.machines import TABLES, provision
from mcpg.machines.replay import rules
from mcpg.provisioners.noop import Noop
from mcpg.wire.explain import Explanation

from ..conftest import Plane, StartPlane


async def explained(plane: Plane, operation_id: str) -> dict[str, Any]:
    found = (await plane.client.get(f"/v1/operations/{operation_id}/explain")).raise_for_status().json()
    Explanation.model_validate(found)
    return dict(found)


class Blind(Noop):
    """Runs nothing, and says that what it runs can be seen: nothing is ever enrolled. `trouble` makes `apply` fail."""

    observes = True

    def __init__(self, trouble: str = "") -> None:
        super().__init__()
        self.trouble = trouble

    async def apply(self, order: Order) -> tuple[Placed, ...]:
        if self.trouble:
            raise TemporaryError(self.trouble, delay=30)
        return await super().apply(order)

    async def probe(self, instance_id: str) -> tuple[Answer, ...]:
        raise AssertionError("explaining asks nobody")


async def begun(plane: Plane, state: str, seq: int = 0, **body: Any) -> str:
    """A create that came as far as *state*; nobody waits for its end."""
    async with plane.client.stream("POST", plane.gateways, json={"name": "edge-1", **body}) as answer:
        operation_id = answer.headers["x-operation-id"]

    async def there() -> bool:
        row = await plane.operation(operation_id)
        return row["state"] == state and row["transitions"] >= seq

    await plane.until(there, f"{operation_id} is {state}")
    return str(operation_id)


async def counts(plane: Plane) -> list[dict[str, Any]]:
    return [
        await plane.db.one(f"SELECT count(*) AS n FROM {table}") or {}  # noqa: S608 - three names
        for table in ("journal", "agent", "bootstrap_token")
    ]


async def test_what_waits_for_its_gateway_says_who_is_missing(start_plane: StartPlane) -> None:
    async with start_plane(given=Blind()) as plane:
        operation_id = await begun(plane, "confirming", replicas=2)
        before = await counts(plane)
        found = await explained(plane, operation_id)
        assert await counts(plane) == before, "asking changes nothing"
        assert (found["operation"]["state"], found["rest"]) == ("confirming", "wait")
        assert found["waits_for"] == "every replica enrolled, config active, endpoint answering"
        assert found["seen"].startswith("0 of 2 enrolled, config ")
        assert [(r["replica"], r["is_there"], r["words"]) for r in found["replicas"]] == [
            (1, False, "has not enrolled"),
            (2, False, "has not enrolled"),
        ]
        moves = {m["event"]: m for m in found["moves"]}
        assert (moves["confirmed"]["guard"], moves["confirmed"]["holds"]) == ("all_replicas_serve", False)
        assert '"enrolled": 0' in moves["confirmed"]["why"]
        assert '"replicas": 2' in moves["confirmed"]["why"]
        assert (moves["deadline"]["by"], moves["deadline"]["dest"]) == ("its deadline", "compensating")
        assert (moves["cancel"]["by"], moves["cancel"]["holds"]) == ("operation cancel", True)
        assert found["lease"].startswith(f"this control plane ({plane.engine.epoch})")
        assert found["last"]["event"] == "applied"
        assert found["operation"]["deadline_at"] is not None
        assert f"mcpg-ctl operation cancel {operation_id} --plan" in found["next"]
        assert found["blocked"] == []


async def test_an_attempt_that_failed_is_shown_with_the_next_one(start_plane: StartPlane) -> None:
    async with start_plane(given=Blind("the registry is away")) as plane:
        operation_id = await begun(plane, "applying")

        async def tried() -> bool:
            return (await explained(plane, operation_id))["next_attempt_at"] is not None

        await plane.until(tried, "an attempt failed")
        found = await explained(plane, operation_id)
        assert (found["rest"], found["waits_for"], found["attempts"]) == ("work", "the engine: apply", 1)
        assert found["lease"].startswith(f"this control plane ({plane.engine.epoch})")
        assert found["blocked"] == []


async def rest_in(plane: Plane, state: str, **columns: Any) -> str:
    """An operation that rests in *state*, as an older control plane or an editor left it: nobody here drives it."""
    operation_id = (await plane.publish("edge-1"))[-1]["operation_id"]
    sets = {"state": state, "finished_at": None, **columns}
    text = ",".join(f"{name}=?" for name in sets)
    await plane.edit(f"UPDATE operation SET {text} WHERE id=?", *sets.values(), operation_id)  # noqa: S608
    return str(operation_id)


async def test_lesson_5_a_state_of_another_version_is_named(plane: Plane) -> None:
    """DBOS leaves work alone for minutes when versions differ, and nobody says so: here it is said which one it needs."""
    operation_id = await rest_in(plane, "levitating")
    found = await explained(plane, operation_id)
    assert (found["rest"], found["moves"]) == ("unknown", [])
    [why] = found["blocked"]
    assert why.startswith(f"levitating is no state of {provision.MACHINE.label}, which this version runs")


async def test_lesson_5_a_start_says_what_it_cannot_move(
    start_plane: StartPlane, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Rows of another version neither keep a control plane from starting nor are passed over in silence."""
    async with start_plane() as plane:
        operation_id = await rest_in(plane, "levitating", deadline_at=plane.engine.clock() + 10_000_000)
        assert await stranded(plane.db) == [("provision", "levitating", 1)]
    async with start_plane(tmp_path / "state") as plane:
        assert (await plane.operation(operation_id))["state"] == "levitating"
        assert not plane.engine.drives(operation_id)
        assert (await plane.publish("edge-2"))[-1]["phase"] == "ready"
    warned = [r.getMessage() for r in caplog.records if "rest in levitating" in r.getMessage()]
    assert [words.partition(",")[0] for words in warned] == ["1 row(s) of provision rest in levitating"]


async def test_lesson_1_no_state_of_a_shipped_machine_is_without_a_way_out() -> None:
    """A row that rests has somebody to move it on and somewhere to go."""
    for table in TABLES.values():
        ready = rules(table.canonical)
        assert [s.value for s in table.states if not ready.has_way_out(s.value)] == []


async def test_lesson_5_a_line_of_another_definition_is_named(plane: Plane) -> None:
    """The same where the state is known in both: it goes on, by another definition than it began with."""
    operation_id = await rest_in(plane, "confirming")
    sql = "UPDATE journal SET definition='0123456789abcdef' WHERE subject=?"
    await plane.edit(sql, operation_id)
    assert any("was made by provision@0123456789ab" in why for why in (await explained(plane, operation_id))["blocked"])


async def test_lesson_5_the_lease_of_a_control_plane_that_is_gone_is_named(plane: Plane) -> None:
    """flyctl's leases block for half an hour after a crash: here it blocks nothing, whatever its term."""
    until = plane.engine.clock() + 300_000_000
    operation_id = await rest_in(plane, "applying", lease_owner="e-dead", lease_until=until)
    found = await explained(plane, operation_id)
    assert found["lease"] == "a start of a control plane that is over (e-dead)"
    assert any("the lease is over: the next sweep takes it" in why for why in found["blocked"])


async def test_lesson_5_a_lease_that_is_over_and_one_that_never_was_are_named(plane: Plane) -> None:
    """Nothing that should move on is left without a word on why it does not."""
    operation_id = await rest_in(plane, "applying", lease_owner="e-dead", lease_until=1)
    assert any("the lease is over" in why for why in (await explained(plane, operation_id))["blocked"])
    await plane.edit("UPDATE operation SET lease_owner=NULL WHERE id=?", operation_id)
    assert any("nobody drives it here" in why for why in (await explained(plane, operation_id))["blocked"])


async def test_lesson_5_a_control_plane_without_a_provisioner_says_so(start_plane: StartPlane, tmp_path: Path) -> None:
    """Work that nobody can do is not left waiting without a word."""
    async with start_plane() as plane:
        operation_id = await rest_in(plane, "applying")
        await plane.edit("UPDATE operation SET finished_at=1 WHERE id=?", operation_id)  # nobody takes it at the start
    async with start_plane(tmp_path / "state", provisioner="none") as plane:
        found = await explained(plane, operation_id)
        assert found["next"][0] == "mcpg-ctl serve --provisioner local"
        assert any("started with --provisioner none" in why for why in found["blocked"])


async def test_what_is_paused_says_why_and_where_each_way_out_leads(plane: Plane) -> None:
    operation_id = await rest_in(plane, "paused", paused_in="applying")
    found = await explained(plane, operation_id)
    assert found["rest"] == "owner"
    assert "resume goes back to applying, with a fresh deadline" in found["paused"]
    assert any(words.startswith("cancel leads to compensating") for words in found["paused"])
    assert found["next"][0] == f"mcpg-ctl operation resume {operation_id}"
    resumes = {m["guard"]: m["holds"] for m in found["moves"] if m["event"] == "resume"}
    assert (resumes["paused_while_applying"], resumes["paused_while_allocating"]) == (True, False)


async def test_what_is_over_has_no_moves(plane: Plane) -> None:
    operation_id = (await plane.publish("edge-1"))[-1]["operation_id"]
    found = await explained(plane, operation_id)
    assert (found["rest"], found["moves"], found["blocked"]) == ("final", [], [])
    assert f"mcpg-ctl operation replay {operation_id}" in found["next"]


@pytest.mark.parametrize("machine", ["teardown", "recovery", "provision"])
async def test_every_state_of_every_machine_can_be_explained(plane: Plane, machine: str) -> None:
    """Also one that no shipped path leaves a row in: the answer is words, never a traceback."""
    operation_id = await rest_in(plane, "paused", machine=machine)
    for state in TABLES[machine].states:
        await plane.edit("UPDATE operation SET state=? WHERE id=?", state.value, operation_id)
        found = await explained(plane, operation_id)
        assert found["rest"] in ("work", "wait", "owner", "final")
        assert found["next"]


async def test_an_operation_that_is_not_there(plane: Plane) -> None:
    assert (await plane.client.get("/v1/operations/op-nothing/explain")).status_code == 404
