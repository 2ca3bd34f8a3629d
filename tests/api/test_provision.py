"""Asking for gateways over HTTP, with a provisioner that does nothing: what is accepted, refused, and told."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion

from tests.bounds import BOUND_S
from tests.conftest import Plane, StartPlane, parse_events

BASE = "/v1/orgs/default/workspaces/default/environments"


async def refused(
    plane: Plane, status: int, code: str, path: str = "", method: str = "POST", **kwargs: Any
) -> dict[str, Any]:
    """The problem body of a refusal; nothing may have been written by it."""
    before = plane.db.writer.lines
    answer = await plane.client.request(method, path or plane.gateways, **kwargs)
    assert (answer.status_code, answer.json().get("code")) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    assert plane.db.writer.lines == before
    return dict(answer.json())


async def test_a_create_goes_through_the_public_phases(plane: Plane) -> None:
    events = await plane.publish("edge-1")
    assert [e["_event"] for e in events] == ["allocating", "applying", "applying", "ready"]
    assert events[-1]["coords"]["instance_uid"]


async def test_the_answer_names_its_operation_before_anything_else(plane: Plane) -> None:
    async with plane.client.stream("POST", plane.gateways, json={"name": "edge-1"}) as answer:
        operation = answer.headers["x-operation-id"]
        assert answer.headers["content-type"] == "text/event-stream"
        await answer.aread()
    assert (await plane.operation(operation))["state"] == "ready"


async def test_publishing_a_name_again_updates_it_in_place(plane: Plane) -> None:
    first = await plane.publish("edge-1", config_toml="mcp: {}")
    second = await plane.publish("edge-1", config_toml="mcp: {capabilities: {}}")
    assert first[-1]["coords"]["instance_uid"] == second[-1]["coords"]["instance_uid"]
    assert [(await plane.operation(e[-1]["operation_id"]))["kind"] for e in (first, second)] == ["create", "update"]
    versions = (await plane.client.get(f"{plane.gateways}/edge-1/config-versions")).json()
    assert [v["version"] for v in versions] == [2, 1]
    kept = (await plane.client.get(f"{plane.gateways}/edge-1/config-versions/1")).json()
    assert kept == {"version": 1, "raw_config": "mcp: {}"}


async def test_an_update_without_a_config_keeps_the_one_it_has(plane: Plane) -> None:
    await plane.publish("edge-1", config_toml="mcp: {}")
    before = (await plane.instances())[0]
    await plane.publish("edge-1", replicas=2)
    after = (await plane.instances())[0]
    assert (after["config_version"], after["assigned_hash"]) == (1, before["assigned_hash"])


# ---- names and scopes


@pytest.mark.parametrize("segment", ["nope", "no-pe"])
@pytest.mark.parametrize("position", [0, 1, 2])
async def test_an_unknown_scope_is_not_found_and_what_exists_is_named(
    plane: Plane, segment: str, position: int
) -> None:
    names = ["default"] * 3
    names[position] = segment
    path = "/v1/orgs/{}/workspaces/{}/environments/{}/gateways".format(*names)
    problem = await refused(plane, 404, "not_found", path, json={"name": "edge-1"})
    assert segment in problem["title"]
    assert "default" in problem["detail"]


@pytest.mark.parametrize("bad", ["..%2fadmin", "%2e%2e", "A", "a", "-ab", "ab-", "a_b", "x" * 41, "a%20b", "a.b"])
async def test_a_segment_that_is_no_slug_is_refused(plane: Plane, bad: str) -> None:
    await refused(plane, 400, "bad_slug", f"/v1/orgs/{bad}/workspaces/default/environments/default/gateways", json={})


async def test_a_segment_that_is_no_text_is_refused(plane: Plane) -> None:
    path = "/v1/orgs/a%00b/workspaces/default/environments/default/gateways"
    problem = await refused(plane, 400, "invalid_argument", path, json={})
    assert problem["title"] == "'a%00b' in the path cannot be read"


async def raw(plane: Plane, request: bytes) -> bytes:
    """Bytes on a socket: what no well-behaved client would send."""
    host, port = plane.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    answer = await asyncio.wait_for(reader.read(), BOUND_S)
    writer.close()
    await writer.wait_closed()
    return answer


def get(plane: Plane, path: str, host: str | None = None) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {host or plane.url.removeprefix('http://')}\r\nConnection: close\r\n\r\n".encode()


async def test_a_doubled_leading_slash_is_the_same_path(plane: Plane) -> None:
    """A real client with a base URL that ends in a slash asks for //v1/…"""
    assert b"200 OK" in await raw(plane, get(plane, "//v1/orgs"))


@pytest.mark.parametrize("path", ["/v1//orgs", "///v1/orgs", "/v1/orgs/../admin", "/v1/orgs/%2e%2e/operations"])
async def test_other_crooked_paths_reach_nothing(plane: Plane, path: str) -> None:
    answer = await raw(plane, get(plane, path))
    assert answer.startswith((b"HTTP/1.1 404", b"HTTP/1.1 400")), answer[:200]


@pytest.mark.parametrize("name", ["Edge", "e", "-edge", "edge-", "ed ge", "x" * 41, "../x", "", "ед", "edge\u202e"])
async def test_a_name_that_is_no_slug_is_refused(plane: Plane, name: str) -> None:
    await refused(plane, 400, "bad_slug", json={"name": name})


@pytest.mark.parametrize("name", ["default", "app", "v1", "localhost", "readyz"])
async def test_a_reserved_name_is_refused(plane: Plane, name: str) -> None:
    await refused(plane, 400, "bad_slug", json={"name": name})


async def test_a_name_taken_in_another_environment_is_refused(plane: Plane) -> None:
    from mcpg.store.clock import now_us, uuid7
    from mcpg.store.models import Environment, Workspace

    async def work(tx: Any) -> None:
        space = await Workspace.get(slug="default", using_db=tx)
        await Environment.create(
            id=uuid7(), workspace_id=space.id, slug="other", name="o", created_at=now_us(), using_db=tx
        )

    await plane.db.run_tx(work)
    await plane.publish("edge-1")
    problem = await refused(plane, 409, "name_taken", f"{BASE}/other/gateways", json={"name": "edge-1"})
    assert "--name" in problem["hint"]


# ---- bodies


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "name"),
        ({"name": "edge-1", "replicas": 0}, "replicas"),
        ({"name": "edge-1", "replicas": 10_000}, "replicas"),
        ({"name": "edge-1", "replicas": -1}, "replicas"),
        ({"name": "edge-1", "replicas": "2"}, "replicas"),
        ({"name": "edge-1", "replicas": 1.5}, "replicas"),
        ({"name": "edge-1", "replicas": True}, "replicas"),
        ({"name": "edge-1", "size": "xxl"}, "size"),
        ({"name": 7}, "name"),
        ({"name": "edge-1", "region": "a\x00b"}, "region"),
        ({"name": "edge-1", "custom_hostname": "x" * 256}, "custom_hostname"),
        ({"name": "x" * 100_000}, "name"),
        ([], "body"),
        (None, "body"),
    ],
)
async def test_a_wrong_field_is_named(plane: Plane, body: Any, field: str) -> None:
    problem = await refused(plane, 400, "bad_spec", content=json.dumps(body))
    assert field in [f["field"] for f in problem["details"]["fields"]]


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b'{"name": "a\x00b"}', b"[" * 100_000])
async def test_what_is_not_json_is_refused(plane: Plane, body: bytes) -> None:
    await refused(plane, 400, "bad_spec", content=body)


@pytest.mark.parametrize("line", ["GET /é HTTP/1.1", "GET / HTTP/9", "GET", "\x00"])
async def test_what_is_no_request_gets_a_4xx_and_not_a_riddle(plane: Plane, line: str) -> None:
    answer = await raw(plane, f"{line}\r\nHost: x\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 4")
    assert b"421" not in answer.split(b"\r\n")[0]


async def test_a_body_that_is_too_large_is_refused(plane: Plane) -> None:
    head = f"POST {plane.gateways} HTTP/1.1\r\nHost: {plane.url.removeprefix('http://')}\r\nContent-Length: 9000000\r\n\r\n"
    answer = await raw(plane, head.encode() + b"x" * 1000)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b'"code":"invalid_argument"' in answer


@pytest.mark.parametrize("config", ["a: [", "- just\n- a list", "gateway: {control_plane: {url: x}}", "\x00"])
async def test_a_config_that_cannot_be_delivered_is_refused(plane: Plane, config: str) -> None:
    problem = await refused(plane, 422, "unparseable_config", json={"name": "edge-1", "config_toml": config})
    assert problem["detail"] or problem["hint"]
    assert await plane.instances() == []


@pytest.mark.parametrize(("field", "value"), [("region", "mars-1"), ("isolation_tier", "dungeon")])
async def test_an_unknown_region_or_tier_is_refused_by_the_allocator_with_what_exists(
    plane: Plane, field: str, value: str
) -> None:
    events = await plane.publish("edge-1", **{field: value})
    assert (events[-1]["_event"], events[-1]["code"]) == ("failed", "no_capacity")
    assert "local: " in events[-1]["message"]
    assert await plane.instances() == []


async def test_region_cannot_change_in_place(plane: Plane) -> None:
    await plane.publish("edge-1")
    await refused(plane, 400, "bad_spec", json={"name": "edge-1", "region": "elsewhere"})


async def test_without_a_provisioner_a_create_answers_503(start_plane: StartPlane) -> None:
    async with start_plane(provisioner="none") as plane:
        problem = await refused(plane, 503, "no_provisioner", json={"name": "edge-1"})
        assert "--provisioner" in problem["hint"]


# ---- one request, sent more than once


async def test_one_key_and_one_body_are_one_operation(plane: Plane) -> None:
    headers = {"Idempotency-Key": "k-1"}
    first = await plane.publish("edge-1", headers=headers)
    second = await plane.publish("edge-1", headers=headers)
    assert first == second
    assert len((await plane.client.get("/v1/orgs/default/operations")).json()) == 1


async def test_one_key_and_another_body_is_refused(plane: Plane) -> None:
    await plane.publish("edge-1", headers={"Idempotency-Key": "k-1"})
    problem = await refused(
        plane, 422, "idempotency_key_reused", json={"name": "edge-2"}, headers={"Idempotency-Key": "k-1"}
    )
    assert problem["details"]["operation_id"].startswith("op-")


@pytest.mark.parametrize("key", ["", "a b", "x" * 201, "é"])
async def test_a_key_that_cannot_be_one_is_refused(plane: Plane, key: str) -> None:
    await refused(plane, 400, "invalid_argument", json={"name": "edge-1"}, headers={"Idempotency-Key": key.encode()})


async def test_a_key_also_makes_a_delete_one_operation(plane: Plane) -> None:
    uid = (await plane.publish("edge-1"))[-1]["coords"]["instance_uid"]
    path, headers = f"{plane.gateways}/{uid}", {"Idempotency-Key": "d-1"}
    first = await plane.ladder("DELETE", path, headers=headers)
    assert await plane.ladder("DELETE", path, headers=headers) == first


async def test_eight_equal_creates_at_once_are_one_operation(plane: Plane) -> None:
    """Publishing again is how a client recovers a ladder it lost: it finds the one that runs, or updates."""
    ladders = await asyncio.gather(*(plane.publish("edge-1", headers={"Idempotency-Key": "k"}) for _ in range(8)))
    assert len({e[-1]["operation_id"] for e in ladders}) == 1
    assert len(await plane.instances()) == 1


async def test_two_different_creates_of_one_name_at_once_make_one_gateway(plane: Plane) -> None:
    answers = await asyncio.gather(
        *(plane.client.post(plane.gateways, json={"name": "edge-1", "replicas": n}) for n in (1, 2))
    )
    assert len(await plane.instances()) == 1
    for answer in answers:
        assert answer.status_code in (200, 409), answer.text
        if answer.status_code == 409:
            assert answer.json()["code"] == "busy"


async def test_deleting_what_is_not_there_is_not_found(plane: Plane) -> None:
    problem = await refused(plane, 404, "not_found", f"{plane.gateways}/01a2-nope", method="DELETE")
    assert "instance list" in problem["hint"]


async def test_deleting_twice_is_not_found_the_second_time(plane: Plane) -> None:
    uid = (await plane.publish("edge-1"))[-1]["coords"]["instance_uid"]
    await plane.delete(uid)
    problem = await refused(plane, 404, "not_found", f"{plane.gateways}/{uid}", method="DELETE")
    assert problem["detail"] == "it was deleted"


# ---- dry run


async def test_a_dry_run_says_what_would_happen_and_reserves_nothing(plane: Plane) -> None:
    answer = await plane.client.post(f"{plane.gateways}/validate", json={"name": "edge-1", "replicas": 2})
    assert answer.status_code == 200
    no_limit = {"total": None, "used": 0, "free": None}
    assert answer.json() | {"config_sha256": "", "gateway_version": ""} == {
        "name": "edge-1", "action": "create", "gateway_version": "", "size": "s", "replicas": 2, "config_sha256": "",
        "cluster": "local", "after": {
            "gateways": {"total": 20, "used": 0, "reserved": 2, "free": 18},
            "cpu_millicores": no_limit | {"reserved": 500}, "memory_bytes": no_limit | {"reserved": 2**29},
        },
    }  # fmt: skip
    assert await plane.instances() == []
    await plane.publish("edge-1")
    again = await plane.client.post(f"{plane.gateways}/validate", json={"name": "edge-1"})
    assert again.json()["action"] == "update"
    fewer = await plane.client.post(f"{plane.gateways}/validate", json={"name": "edge-1", "replicas": 3})
    assert fewer.json()["after"]["gateways"] == {"total": 20, "used": 1, "reserved": 2, "free": 17}


async def test_a_dry_run_gives_the_refusal_a_publish_would_give(plane: Plane) -> None:
    path = f"{plane.gateways}/validate"
    await refused(plane, 503, "no_capacity", path, json={"name": "edge-1", "region": "mars-1"})
    await refused(plane, 422, "unparseable_config", path, json={"name": "edge-1", "config_toml": "a: ["})


# ---- every refusal as one page


async def test_problem_bodies(plane: Plane, snapshot: SnapshotAssertion) -> None:
    """What a client reads when it is refused; without the ids that change."""
    await plane.publish("edge-1")
    cases = {
        "unknown org": ("POST", plane.gateways.replace("orgs/default", "orgs/nope"), {"json": {"name": "ab"}}),
        "bad slug": ("POST", plane.gateways, {"json": {"name": "Edge"}}),
        "reserved": ("POST", plane.gateways, {"json": {"name": "default"}}),
        "replicas": ("POST", plane.gateways, {"json": {"name": "ab", "replicas": 10_000}}),
        "config": ("POST", plane.gateways, {"json": {"name": "ab", "config_toml": "a: ["}}),
        "not there": ("DELETE", f"{plane.gateways}/nope", {}),
        "no route": ("GET", "/v1/nothing", {}),
        "method": ("PATCH", "/v1/orgs", {}),
        "limit": ("GET", "/v1/orgs/default/operations?limit=0", {}),
    }
    seen = {}
    for name, (method, path, kwargs) in cases.items():
        answer = await plane.client.request(method, path, **kwargs)
        seen[name] = {k: v for k, v in answer.json().items() if k != "request_id"} | {"status": answer.status_code}
    assert seen == snapshot


async def test_a_full_history_as_a_reviewer_reads_it(plane: Plane, snapshot: SnapshotAssertion) -> None:
    """Create, update, refuse, delete: every transition, without clocks and ids."""
    uid = (await plane.publish("edge-1", replicas=2))[-1]["coords"]["instance_uid"]
    await plane.publish("edge-1", replicas=1)
    await plane.publish("edge-2", region="mars-1")
    await plane.delete(uid)
    operations = (await plane.client.get("/v1/orgs/default/operations?history=true")).json()
    told = [
        f"{o['kind']} {o['name']}: "
        + " | ".join(
            f"{t['seq']} {t['source']}→{t['dest']} {t['event']} by {t['actor']}: {t['message']}" for t in o["history"]
        )
        for o in reversed(operations)
    ]
    assert told == snapshot


def test_the_event_parser_reads_what_real_clients_can_read() -> None:
    """LF ends, one space, one data line: the frames of this suite are read by the strictest rules there are."""
    assert parse_events("id: 1\nevent: a\ndata: {}\n\n: x\n\n")[0]["_event"] == "a"
