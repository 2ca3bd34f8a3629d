"""Gateways whose cluster was taken away: adopted, adopted by a publish, reaped, deleted; and what fails leaves them so."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from mcpg.engine.operation import Operation
from mcpg.engine.orphans import adopt, reap
from mcpg.errors import PermanentError
from tests.api.clusters import ADMIN, cluster, get, orphan, problem, register
from tests.conftest import Plane, StartPlane
from tests.engine.fakes import Scripted


async def test_an_orphan_is_adopted_where_it_fits_and_nothing_of_it_is_touched(start_plane: StartPlane) -> None:
    scripted = Scripted()
    async with start_plane(given=scripted) as plane:
        uid = await orphan(plane, replicas=2, config_toml="mcp: {}")
        before = (await plane.instances())[0]
        await register(plane, name="eu-2")
        ladder = await plane.ladder("POST", f"/v1/orgs/default/instances/{uid}/adopt")
        assert [e["_event"] for e in ladder] == ["allocating", "applying", "applying", "ready"]
        assert (await plane.operation(ladder[-1]["operation_id"]))["kind"] == "adopt"
        after = (await plane.instances())[0]
        assert (after["cluster"], after["orphaned_at"]) == ("eu-2", None)
        kept = ("spec", "replicas", "size", "config_version", "assigned_hash", "addressable")
        assert {k: after.get(k) for k in kept} == {k: before.get(k) for k in kept}
        assert (await cluster(plane, "eu-2"))["gateways_running"] == 2
        assert scripted.removed == []


async def test_an_orphan_can_be_sent_to_one_cluster_only(plane: Plane) -> None:
    uid = await orphan(plane)
    await register(plane, name="eu-2", gateways_max=1)
    await register(plane, name="eu-3")
    path = f"/v1/orgs/default/instances/{uid}/adopt"
    problem(await plane.client.post(path, json={"cluster": "nope"}), 404, "not_found")
    problem(await plane.client.post(path, json={"clutser": "eu-3"}), 400, "bad_spec")
    assert (await plane.ladder("POST", path, json={"cluster": "eu-3"}))[-1]["state"] == "ready"
    assert (await plane.instances())[0]["cluster"] == "eu-3"


async def test_an_adoption_that_fails_leaves_the_orphan_as_it_was(start_plane: StartPlane) -> None:
    scripted = Scripted()
    async with start_plane(given=scripted) as plane:
        uid = await orphan(plane, replicas=2)
        before = (await plane.instances())[0]
        await register(plane, name="eu-2")
        scripted.problems = [PermanentError("no")]
        ladder = await plane.ladder("POST", f"/v1/orgs/default/instances/{uid}/adopt")
        assert (ladder[-1]["state"], ladder[-1]["data"]["undone"][-1]) == ("failed", "2 places released")
        assert (await plane.instances())[0] == before
        assert (await cluster(plane, "eu-2"))["gateways_running"] == 0


async def test_an_orphan_that_finds_no_room_stays_one_and_says_why(plane: Plane) -> None:
    uid = await orphan(plane)
    ladder = await plane.ladder("POST", f"/v1/orgs/default/instances/{uid}/adopt")
    failed = ladder[-1]
    assert (failed["code"], failed["data"]["clusters"], failed["data"]["hint"]) == (
        "no_capacity", [{"name": "local", "reason": "region local ≠ eu"}],
        "mcpg-ctl cluster register --name NAME --region eu --gateways-max N",
    )  # fmt: skip
    assert (await plane.instances())[0]["orphaned_at"]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({}, "--region REGION"),
        ({"region": "mars 1"}, "--region 'mars 1'"),
        ({"region": "eu", "isolation_tier": "dedicated"}, "--region eu --isolation-tier dedicated"),
    ],
    ids=["nothing", "region", "both"],
)
async def test_no_room_leads_to_the_cluster_that_would_have_it(plane: Plane, asked: dict[str, str], words: str) -> None:
    """A publish says it in its last event, a dry run in its refusal."""
    hint = f"mcpg-ctl cluster register --name NAME {words} --gateways-max N"
    body = {"name": "edge-1", "replicas": 100, **asked}
    assert (await plane.publish(**body))[-1]["data"]["hint"] == hint
    assert (await plane.client.post(f"{plane.gateways}/validate", json=body)).json()["hint"] == hint


async def test_who_has_a_cluster_is_not_sent_to_another(plane: Plane) -> None:
    """An update stays where it is, and an adoption goes only where it is sent: a new cluster would not help either."""
    await plane.publish("edge-1")
    hint = "ask for fewer replicas or a smaller --size; what there is: mcpg-ctl cluster show local"
    assert (await plane.publish("edge-1", replicas=100))[-1]["data"]["hint"] == hint
    body = {"name": "edge-1", "replicas": 100}
    assert (await plane.client.post(f"{plane.gateways}/validate", json=body)).json()["hint"] == hint
    uid = await orphan(plane, "edge-2")
    ladder = await plane.ladder("POST", f"/v1/orgs/default/instances/{uid}/adopt", json={"cluster": "local"})
    assert ladder[-1]["data"]["hint"].startswith("leave out --cluster, and the allocator chooses;")


async def test_publishing_an_orphans_name_adopts_it_too(plane: Plane) -> None:
    uid = await orphan(plane)
    await register(plane, name="eu-2")
    assert (await plane.publish("edge-1", replicas=2))[-1]["coords"]["instance_uid"] == uid
    (instance,) = await plane.instances()
    assert (instance["cluster"], instance["orphaned_at"], instance["replicas"]) == ("eu-2", None, 2)
    assert (await cluster(plane, "eu-2"))["gateways_running"] == 2


@pytest.mark.parametrize("how", ["reap", "delete"])
async def test_an_orphan_is_torn_down_by_reap_and_by_delete(plane: Plane, how: str) -> None:
    uid = await orphan(plane)
    if how == "reap":
        ladder = await plane.ladder("POST", f"/v1/orgs/default/instances/{uid}/reap")
    else:
        ladder = await plane.delete(uid)
    assert (ladder[-1]["state"], await plane.instances()) == ("deleted", [])
    assert (await get(plane, "/v1/clusters/health"))["orphans"] == 0


@pytest.mark.parametrize(("how", "hint"), [("adopt", "no adoption"), ("reap", "provision delete")])
async def test_who_is_no_orphan_is_neither_adopted_nor_reaped(plane: Plane, how: str, hint: str) -> None:
    uid = (await plane.publish("edge-1"))[-1]["coords"]["instance_uid"]
    refused = problem(await plane.client.post(f"/v1/orgs/default/instances/{uid}/{how}"), 409, "refused")
    assert hint in refused["hint"]
    problem(await plane.client.post(f"/v1/orgs/default/instances/nope/{how}"), 404, "not_found")


async def test_a_create_that_loses_its_cluster_half_way_ends_ready_and_an_orphan(start_plane: StartPlane) -> None:
    scripted = Scripted()
    scripted.hold = asyncio.Event()
    async with start_plane(given=scripted) as plane:
        await register(plane)
        create = asyncio.create_task(plane.publish("edge-1", region="eu"))
        await scripted.entered.wait()
        assert (await plane.client.delete(f"{ADMIN}/eu-1?force=true")).status_code == 200
        scripted.hold.set()
        assert (await create)[-1]["state"] == "ready"
        assert (await plane.instances())[0]["orphaned_at"]
        assert (await cluster(plane, "eu-1"))["gateways_running"] == 0


@pytest.mark.parametrize("verb", ["adopt", "reap"])
async def test_one_key_is_one_operation_however_often_and_late_it_is_sent(plane: Plane, verb: str) -> None:
    """Eight times at once, and once more after the gateway is gone."""
    uid = await orphan(plane)
    if verb == "adopt":
        await register(plane)
    path, key = f"/v1/orgs/default/instances/{uid}/{verb}", {"idempotency-key": "k-1"}
    answers = await asyncio.gather(*(plane.client.post(path, headers=key) for _ in range(8)))
    assert [each.status_code for each in answers] == [200] * 8, [each.text for each in answers]
    if verb == "adopt":
        await plane.delete(uid)
    late = await plane.client.post(path, headers=key)
    assert {each.headers["x-operation-id"] for each in [*answers, late]} == {late.headers["x-operation-id"]}


@pytest.mark.parametrize("verb", ["adopt", "reap"])
async def test_one_key_is_one_operation_when_all_look_before_the_first_is_written(plane: Plane, verb: str) -> None:
    uid = await orphan(plane)
    if verb == "adopt":
        await register(plane)

    def ask() -> Awaitable[Operation]:
        if verb == "adopt":
            return adopt(plane.engine, "default", uid, "", actor="ada", key="k-1")
        return reap(plane.engine, "default", uid, actor="ada", key="k-1")

    assert len({op.id for op in await asyncio.gather(*(ask() for _ in range(8)))}) == 1
