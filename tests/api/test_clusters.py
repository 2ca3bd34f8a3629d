"""Clusters over HTTP: registered, drained, taken out of the pool; what becomes of who lived there; how the fleet is."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion

from tests.api.clusters import ADMIN, EU, K8S, amount, cluster, get, orphan, problem, register, without_heartbeat
from tests.conftest import Plane, StartPlane
from tests.engine.fakes import Scripted

# ---- register, list, show


async def test_a_registered_cluster_is_listed_with_all_that_was_said(plane: Plane) -> None:
    made = await register(plane, cpu_millicores_total=4000, memory_bytes_total=2**32, isolation_tier="dedicated")
    listed = {c["name"]: c for c in await get(plane, "/v1/clusters")}
    assert list(listed) == ["eu-1", "local"]
    assert listed["eu-1"] == made
    assert {k: v for k, v in made.items() if not k.endswith("_at") and k != "id"} == {
        "name": "eu-1", "region": "eu", "isolation_tier": "dedicated", "state": "registered", "status": "active",
        "provisioner": "local", "reachable": True, "reason": "", "gateways_max": 10, "gateways_running": 0,
        "cpu_millicores_total": 4000, "cpu_millicores_used": 0, "memory_bytes_total": 2**32, "memory_bytes_used": 0,
        "capacity": {"gateways": amount(10), "cpu_millicores": amount(4000), "memory_bytes": amount(2**32)},
        "gateways": 0, "kubeconfig": "", "kube_context": "", "kube_server": "", "transitions": 1, "history": None,
        "orphaned": None,
    }  # fmt: skip


async def test_what_a_gateway_takes_is_used_once_it_is_ready_and_reserved_before(start_plane: StartPlane) -> None:
    scripted = Scripted()
    scripted.hold = asyncio.Event()
    async with start_plane(given=scripted) as plane:
        await register(plane, cpu_millicores_total=4000)
        create = asyncio.create_task(plane.publish("edge-1", region="eu", replicas=2, size="m"))
        await scripted.entered.wait()
        before = await cluster(plane, "eu-1")
        assert before["capacity"] == {
            "gateways": amount(10, reserved=2), "cpu_millicores": amount(4000, reserved=1000),
            "memory_bytes": amount(None, reserved=2**30),
        }  # fmt: skip
        scripted.hold.set()
        await create
        after = await cluster(plane, "eu-1")
        assert after["capacity"]["gateways"] == amount(10, used=2)
        assert (after["gateways"], after["gateways_running"], after["cpu_millicores_used"]) == (1, 2, 1000)


@pytest.mark.parametrize(
    ("change", "code", "field"),
    [
        ({"name": "E"}, "bad_slug", ""),
        ({"name": "e"}, "bad_slug", ""),
        ({"name": "-eu"}, "bad_slug", ""),
        ({"name": "e" * 61}, "bad_slug", ""),
        ({"name": "health"}, "bad_slug", ""),
        ({"name": 7}, "bad_spec", "name"),
        ({"region": ""}, "bad_spec", "region"),
        ({"region": "a b"}, "bad_spec", "region"),
        ({"gateways_max": 0}, "bad_spec", "gateways_max"),
        ({"gateways_max": 1_000_001}, "bad_spec", "gateways_max"),
        ({"gateways_max": "10"}, "bad_spec", "gateways_max"),
        ({"cpu_millicores_total": 0}, "bad_spec", "cpu_millicores_total"),
        ({"memory_bytes_total": -1}, "bad_spec", "memory_bytes_total"),
        ({"memory_bytes_total": 2**60}, "bad_spec", "memory_bytes_total"),
        ({"provisioner": "nomad"}, "bad_spec", "provisioner"),
        ({"gatewaysmax": 10}, "bad_spec", "gatewaysmax"),
        ({"kube_context": "prod"}, "bad_spec", ""),
    ],
)
async def test_a_wrong_registration_is_refused_and_the_field_named(
    plane: Plane, change: dict[str, Any], code: str, field: str
) -> None:
    refused = problem(await plane.client.post(ADMIN, json=EU | change), 400, code)
    assert field in ["", *(f["field"] for f in refused["details"].get("fields", []))]
    assert [c["name"] for c in await get(plane, "/v1/clusters")] == ["local"]


@pytest.mark.parametrize(
    "change",
    [{"kube_context": ""}, {"kube_server": ""}, {"kube_server": "http://10.0.0.1"}, {"kube_server": "https://"},
     {"kube_server": "https://u:secret@h"}, {"kube_server": "https://h:99999"}, {"kube_server": "h:6443"}],
)  # fmt: skip
async def test_a_kubernetes_cluster_needs_a_context_and_an_https_url(plane: Plane, change: dict[str, str]) -> None:
    refused = problem(await plane.client.post(ADMIN, json=K8S | change), 400, "bad_spec")
    assert "secret" not in str(refused)


async def test_a_kubernetes_cluster_is_known_and_never_taken_for_healthy(plane: Plane) -> None:
    made = await register(plane, **K8S, kubeconfig="/home/me/.kube/config")
    assert (made["reachable"], made["reason"]) == (False, "this version has no kubernetes provisioner")
    assert (made["kube_server"], made["last_seen_at"]) == ("https://10.0.0.1:6443", None)
    events = await plane.publish("edge-1", region="eu")
    assert re.search(
        r"eu-1: unreachable since \d+s: this version has no kubernetes provisioner · local: region local ≠ eu",
        events[-1]["message"],
    )


async def test_a_name_is_taken_while_its_cluster_lives_and_free_again_after(plane: Plane) -> None:
    first = await register(plane)
    problem(await plane.client.post(ADMIN, json=EU), 409, "name_taken")
    assert (await plane.client.delete(f"{ADMIN}/eu-1")).status_code == 200
    second = await register(plane)
    assert (await cluster(plane, "eu-1"))["id"] == second["id"] != first["id"]
    every = await get(plane, "/v1/clusters?all=true")
    assert [(c["name"], c["state"]) for c in every] == [
        ("eu-1", "decommissioned"), ("eu-1", "registered"), ("local", "registered"),
    ]  # fmt: skip


async def test_a_cluster_is_found_by_name_id_or_the_beginning_of_one(plane: Plane) -> None:
    made = await register(plane)
    for ref in ("eu-1", made["id"], made["id"][:30]):
        assert (await cluster(plane, ref))["id"] == made["id"]
    assert (
        "clusters here: eu-1, local" in problem(await plane.client.get("/v1/clusters/eu-2"), 404, "not_found")["detail"]
    )
    problem(await plane.client.get(f"/v1/clusters/{made['id'][:5]}"), 404, "not_found")
    refused = problem(await plane.client.get(f"/v1/clusters/{made['id'][:6]}"), 400, "invalid_argument")
    assert {c["name"] for c in refused["details"]["candidates"]} == {"eu-1", "local"}


# ---- drain, decommission


async def story(plane: Plane, ref: str) -> list[tuple[str, str, str, str]]:
    return [(t["event"], t["dest"], t["actor"], t["reason"]) for t in (await cluster(plane, ref))["history"]]


async def test_a_drained_cluster_takes_nothing_new_until_it_is_undrained(plane: Plane) -> None:
    await register(plane)
    drained = await plane.client.post(f"{ADMIN}/eu-1/drain", json={"reason": "new disks"})
    assert (drained.json()["state"], drained.json()["status"]) == ("draining", "draining")
    assert "eu-1: draining" in (await plane.publish("edge-1", region="eu"))[-1]["message"]
    refused = problem(await plane.client.post(f"{ADMIN}/eu-1/drain"), 409, "no_such_move")
    assert refused["details"]["allowed"] == ["decommission", "force_decommission", "undrain"]
    assert (await plane.client.post(f"{ADMIN}/eu-1/undrain")).json()["state"] == "registered"
    assert (await plane.publish("edge-1", region="eu"))[-1]["state"] == "ready"
    assert (await story(plane, "eu-1"))[1:] == [
        ("drain", "draining", "local", "new disks"), ("undrain", "registered", "local", ""),
    ]  # fmt: skip


async def test_an_empty_cluster_goes_through_draining_in_one_transaction(plane: Plane) -> None:
    made = await register(plane)
    await without_heartbeat(plane)
    commits = plane.db.writer.commits
    gone = (await plane.client.delete(f"{ADMIN}/eu-1")).json()
    assert (gone["state"], gone["status"], gone["orphaned"]) == ("decommissioned", "decommissioned", [])
    assert plane.db.writer.commits == commits + 1
    assert [(event, dest) for event, dest, _, _ in await story(plane, made["id"])] == [
        ("register", "registered"), ("drain", "draining"), ("decommission", "decommissioned"),
    ]  # fmt: skip
    problem(await plane.client.delete(f"{ADMIN}/{made['id']}"), 409, "no_such_move")


async def test_a_cluster_with_gateways_is_protected_and_they_are_named(plane: Plane) -> None:
    await register(plane)
    uid = (await plane.publish("edge-1", region="eu", replicas=2))[-1]["coords"]["instance_uid"]
    for path in (f"{ADMIN}/eu-1", f"{ADMIN}/eu-1?dry_run=true"):
        refused = problem(await plane.client.delete(path), 409, "cluster_in_use")
        assert refused["details"]["gateways"] == [
            {"name": "edge-1", "instance_uid": uid, "org": "default", "workspace": "default", "environment": "default",
             "replicas": 2}
        ]  # fmt: skip
        assert refused["details"]["allowed"] == ["drain", "force_decommission"]
        assert "--force" in refused["hint"]
    assert (await cluster(plane, "eu-1"))["transitions"] == 1, "not even drained"
    await plane.client.post(f"{ADMIN}/eu-1/drain")
    refused = problem(await plane.client.delete(f"{ADMIN}/eu-1"), 409, "cluster_in_use")
    assert refused["details"]["allowed"] == ["force_decommission", "undrain"], "not what was refused a moment ago"


async def test_a_dry_run_tells_whom_force_would_orphan_and_writes_nothing(plane: Plane) -> None:
    await register(plane)
    await plane.publish("edge-1", region="eu")
    lines = plane.db.writer.lines
    told = (await plane.client.delete(f"{ADMIN}/eu-1?force=true&dry_run=true")).json()
    assert [g["name"] for g in told["orphaned"]] == ["edge-1"]
    assert plane.db.writer.lines == lines
    done = (await plane.client.delete(f"{ADMIN}/eu-1?force=true")).json()
    same = ("state", "status", "orphaned", "gateways", "gateways_running", "capacity")
    assert {k: done[k] for k in same} == {k: told[k] for k in same}


async def test_force_makes_orphans_and_the_line_names_them(plane: Plane) -> None:
    uid = await orphan(plane, replicas=3)
    (instance,) = await get(plane, "/v1/instances?orphaned=true")
    assert (instance["instance_uid"], instance["cluster"]) == (uid, "eu-1")
    assert instance["orphaned_at"]
    history = (await cluster(plane, "eu-1"))["history"]
    assert [g["instance_uid"] for g in history[-1]["data"]["orphaned"]] == [uid]
    health = await get(plane, "/v1/clusters/health")
    assert (health["orphans"], [a["kind"] for a in health["attention"]]) == (1, ["orphan"])


# ---- the cluster `local`


async def test_a_decommissioned_local_does_not_come_back_at_restart(start_plane: StartPlane) -> None:
    async with start_plane() as plane:
        await plane.client.delete(f"{ADMIN}/local")
    async with start_plane() as plane:
        assert await get(plane, "/v1/clusters") == []
        (attention,) = (await get(plane, "/v1/clusters/health"))["attention"]
        assert (attention["severity"], attention["kind"]) == ("critical", "no_cluster")
        events = await plane.publish("edge-1")
        assert "no cluster is registered" in events[-1]["message"]


async def test_local_is_resized_while_it_lives(start_plane: StartPlane) -> None:
    async with start_plane() as plane:
        await plane.publish("edge-1", replicas=3)
    async with start_plane(local_gateways_max=2) as plane:
        local = await cluster(plane, "local")
        assert local["capacity"]["gateways"] == {"total": 2, "used": 3, "reserved": 0, "free": 0}
        (attention,) = (await get(plane, "/v1/clusters/health"))["attention"]
        assert (attention["severity"], attention["kind"]) == ("critical", "overcommitted")


# ---- all at once


async def test_the_fleets_capacity_is_that_of_the_clusters_that_have_a_limit(plane: Plane) -> None:
    """`local` has no limit of CPU: what runs there says nothing about how full the others are."""
    await register(plane, region="eu-1", cpu_millicores_total=4000)
    await plane.publish("edge-1", region="eu-1")
    await plane.publish("edge-2", region="local")
    capacity = (await plane.client.get("/v1/clusters/health")).json()["capacity"]
    assert capacity["cpu_millicores"] == {"total": 4000, "used": 250, "reserved": 0, "free": 3750}
    assert capacity["memory_bytes"] == {"total": None, "used": 0, "reserved": 0, "free": None}
    assert capacity["gateways"]["used"] == 2


async def test_64_creates_at_once_against_10_places_leave_10_ready_and_54_refused(plane: Plane) -> None:
    await register(plane)
    ladders = await asyncio.gather(*(plane.publish(f"edge-{i}", region="eu") for i in range(64)))
    ends = [(ladder[-1]["state"], ladder[-1]["code"]) for ladder in ladders]
    assert sorted(ends) == [("failed", "no_capacity")] * 54 + [("ready", "")] * 10
    full = await cluster(plane, "eu-1")
    assert (full["gateways"], full["gateways_running"], full["capacity"]["gateways"]) == (10, 10, amount(10, used=10))
    assert {ladder[-1]["data"]["clusters"][0]["reason"] for ladder in ladders if ladder[-1]["code"]} == {
        "gateways 10/10"
    }
    await asyncio.gather(*(plane.delete(i["instance_uid"]) for i in await plane.instances()))
    assert (await cluster(plane, "eu-1"))["capacity"]["gateways"] == amount(10)


# ---- queries


@pytest.mark.parametrize(
    "path",
    ["/v1/clusters?all=yes", "/v1/clusters?al=true", "/v1/clusters?all=true&all=true", "/v1/clusters?all=",
     "/v1/clusters/health?x=1", "/v1/instances?orphaned=1", "/v1/instances?size=s", "/v1/operations?kind=x",
     "/v1/operations?running=maybe", "/v1/operations?limit=0", "/v1/operations?limit=x", "/v1/machines?x=1"],
)  # fmt: skip
async def test_a_query_that_is_not_understood_is_refused_with_words(plane: Plane, path: str) -> None:
    refused = problem(await plane.client.get(path), 400, "invalid_argument")
    assert refused["detail"] or "is not a number from" in refused["title"]


async def test_cluster_refusals(plane: Plane, snapshot: SnapshotAssertion) -> None:
    """What an operator reads; without the ids that change."""
    await register(plane)
    await plane.publish("edge-1", region="eu")
    cases: dict[str, tuple[str, str, Any]] = {
        "name": ("POST", ADMIN, EU | {"name": "E"}),
        "taken": ("POST", ADMIN, EU),
        "kubernetes": ("POST", ADMIN, K8S | {"kube_server": ""}),
        "in use": ("DELETE", f"{ADMIN}/eu-1", None),
        "move": ("POST", f"{ADMIN}/eu-1/undrain", None),
        "not there": ("DELETE", f"{ADMIN}/eu-9", None),
        "query": ("GET", "/v1/clusters?all=yes", None),
    }
    seen = {}
    for name, (method, path, body) in cases.items():
        answer = await plane.client.request(method, path, json=body)
        seen[name] = {k: v for k, v in answer.json().items() if k in ("status", "code", "title", "detail", "hint")}
    assert seen == snapshot
