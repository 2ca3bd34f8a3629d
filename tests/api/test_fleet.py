"""Across orgs: operations and their export, the events of all, machines, enrolment tokens, what every answer carries."""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
from typing import Any

import httpx
import pytest

from mcpg import __version__
from mcpg.api import stream
from mcpg.errors import PermanentError
from mcpg.machines import TABLES
from mcpg.store.clock import now_us, uuid7
from mcpg.store.models import Environment, Org, Workspace
from tests.bounds import BOUND_S
from tests.conftest import Plane, StartPlane, parse_events
from tests.engine.fakes import Scripted


async def get(plane: Plane, path: str) -> Any:
    return (await plane.client.get(path)).raise_for_status().json()


async def second_org(plane: Plane) -> str:
    """The gateways path of other/default/default."""
    org, space, at = uuid7(), uuid7(), now_us()

    async def work(tx: Any) -> None:
        await Org.create(id=org, slug="other", name="o", created_at=at, using_db=tx)
        await Workspace.create(id=space, org_id=org, slug="default", name="w", created_at=at, using_db=tx)
        await Environment.create(id=uuid7(), workspace_id=space, slug="default", name="e", created_at=at, using_db=tx)

    await plane.db.run_tx(work)
    return plane.gateways.replace("orgs/default", "orgs/other")


# ---- operations


async def test_operations_of_every_org_newest_first_and_filtered(plane: Plane) -> None:
    other = await second_org(plane)
    await plane.publish("edge-1")
    await plane.ladder("POST", other, json={"name": "edge-2"})
    await plane.publish("edge-1", replicas=2)

    async def named(query: str = "") -> list[str]:
        return [f"{o['org']} {o['kind']} {o['name']}" for o in await get(plane, f"/v1/operations{query}")]

    assert await named() == ["default update edge-1", "other create edge-2", "default create edge-1"]
    assert await named("?org=other") == ["other create edge-2"]
    assert await named("?kind=create&limit=1") == ["other create edge-2"]
    assert await named("?name=edge-1&kind=update") == ["default update edge-1"]
    assert await named("?running=true") == []
    assert (await plane.client.get("/v1/operations?org=nope")).status_code == 404
    (one,) = await get(plane, "/v1/operations?kind=update&history=true")
    assert [t["seq"] for t in one["history"]] == [1, 2, 3, 4, 5]


async def test_running_are_those_that_are_not_over(start_plane: StartPlane) -> None:
    scripted = Scripted()
    async with start_plane(given=scripted) as plane:
        await plane.publish("edge-1")
        scripted.hold, scripted.entered = asyncio.Event(), asyncio.Event()
        create = asyncio.create_task(plane.publish("edge-2"))
        await scripted.entered.wait()
        assert [o["name"] for o in await get(plane, "/v1/operations?running=true")] == ["edge-2"]
        scripted.hold.set()
        await create


async def test_an_operation_is_found_by_the_beginning_of_its_id(plane: Plane) -> None:
    operation = (await plane.publish("edge-1"))[-1]["operation_id"]
    whole = await get(plane, f"/v1/operations/{operation}")
    assert whole == await plane.operation(operation)
    assert (await get(plane, f"/v1/operations/{operation[:9]}"))["id"] == operation
    assert (await plane.client.get(f"/v1/operations/{operation[:5]}")).status_code == 404
    events = await plane.client.get(f"/v1/operations/{operation}/events", headers={"Last-Event-ID": "3"})
    assert [e["_id"] for e in parse_events(events.text)] == ["4", "5", None]


async def test_an_operation_that_is_not_found_says_what_may_have_been_meant(plane: Plane) -> None:
    operation = (await plane.publish("edge-1"))[-1]["operation_id"]

    async def told(ref: str) -> tuple[int, str, str]:
        answer = await plane.client.get(f"/v1/operations/{ref}/explain")
        problem = answer.json()
        return answer.status_code, problem.get("detail", ""), problem.get("hint", "")

    short = "at least 6 characters of an id are needed; "
    assert await told(operation[:5]) == (
        404,
        f"{short}1 operation begins so: {operation} (create edge-1)",
        "give more of the id",
    )
    await plane.publish("edge-2")
    status, cause, _ = await told("op-")
    assert (status, cause.startswith(f"{short}2 operations begin so: op-"), "(create edge-2)" in cause) == (
        404,
        True,
        True,
    )
    assert await told("edge-1") == (404, "that is the name of a gateway", "mcpg-ctl operation list --name edge-1")
    assert await told("edge-9") == (404, "", "mcpg-ctl operation list shows them")


async def test_an_instance_is_found_by_the_beginning_of_its_uid_and_several_are_named(plane: Plane) -> None:
    uids = [(await plane.publish(f"edge-{n}"))[-1]["coords"]["instance_uid"] for n in (1, 2)]
    assert (await get(plane, f"/v1/instances/{uids[0]}"))["name"] == "edge-1"
    refused = await plane.client.get(f"/v1/instances/{uids[0][:6]}")
    assert refused.status_code == 400
    assert sorted(refused.json()["details"]["candidates"]) == sorted(uids)
    assert [i["name"] for i in await get(plane, "/v1/instances")] == ["edge-2", "edge-1"]
    assert await get(plane, "/v1/instances?org=default&orphaned=false") == await get(plane, "/v1/instances")


async def test_the_export_of_a_finished_operation_is_always_the_same_bytes(plane: Plane) -> None:
    operation = (await plane.publish("edge-1"))[-1]["operation_id"]
    path = f"/v1/operations/{operation}/export"
    first = (await plane.client.get(path)).content
    await plane.publish("edge-2")
    assert (await plane.client.get(path)).content == first
    document = json.loads(first)
    assert first == json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
    assert document["format"] == "mcpg-operation/2"
    assert document["operation"] == await plane.operation(operation)
    [(digest, definition)] = document["definitions"].items()
    text = json.dumps(definition, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert {t["definition"] for t in document["operation"]["history"]} == {hashlib.sha256(text.encode()).hexdigest()}
    assert {digest} == {t["definition"] for t in document["operation"]["history"]}
    last = document["operation"]["history"][-1]
    assert document["row"] == {"state": "ready", "version": last["seq"], "head_hash": last["hash"]}


async def test_an_export_holds_no_text_of_a_config(plane: Plane) -> None:
    """A config may hold secrets: its hashes say which it was."""
    config = (await plane.publish("edge-1", config="upstreams: []\n# canary-5ecret\n"))[-1]
    path = f"/v1/operations/{config['operation_id']}/export"
    document = (await plane.client.get(path)).text
    assert "canary" not in document
    [found] = json.loads(document)["inputs"]["configs"]
    assert (found["version"], len(found["raw_sha256"]), len(found["rendered_sha256"])) == (1, 64, 64)


# ---- the events of all


async def listen(plane: Plane, count: int, last: str | None = None, ready: asyncio.Event | None = None) -> list[Any]:
    """The first *count* events, after the id that the stream begins with; `ready` is set once it is open."""
    headers = {} if last is None else {"Last-Event-ID": last}
    text = ""
    async with asyncio.timeout(BOUND_S), plane.client.stream("GET", "/v1/events", headers=headers) as answer:
        assert answer.status_code == 200, await answer.aread()
        if ready is not None:
            ready.set()
        async for part in answer.aiter_text():
            text += part
            if text.count("\n\n") > count:
                break
    return parse_events(text)[:count]


async def test_all_events_from_now_on_say_whose_they_are(plane: Plane) -> None:
    await plane.publish("before")
    ready = asyncio.Event()
    listening = asyncio.create_task(listen(plane, 10, ready=ready))
    await ready.wait()
    await plane.publish("edge-1")
    await plane.ladder("POST", await second_org(plane), json={"name": "edge-2"})
    events = await listening
    assert [(e["org"], e["name"], e["kind"], e["seq"]) for e in events] == [
        *(("default", "edge-1", "create", n) for n in range(1, 6)), *(("other", "edge-2", "create", n) for n in range(1, 6)),
    ]  # fmt: skip
    ids = [int(e["_id"]) for e in events]
    assert ids == sorted(set(ids))
    assert [e["_event"] for e in events[:5]] == ["allocating", "allocating", "applying", "applying", "ready"]


async def test_a_listener_resumes_after_the_last_event_it_has(plane: Plane) -> None:
    await asyncio.gather(*(plane.publish(f"edge-{n}") for n in range(8)))
    every = await listen(plane, 40, "0")
    assert len({(e["operation_id"], e["seq"]) for e in every}) == 40
    for cut in (0, 1, 17, 38):
        assert await listen(plane, 39 - cut, every[cut]["_id"]) == every[cut + 1 :]


async def test_a_listener_that_does_not_read_holds_nothing_and_misses_nothing(
    start_plane: StartPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its socket is full; the server waits with one page in hand, and what comes meanwhile stays in the database."""
    monkeypatch.setattr(stream, "PAGE", 10)
    async with start_plane(local_gateways_max=500) as plane:
        host, port = plane.url.removeprefix("http://").split(":")
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            slow.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(slow, (host, int(port)))
            await loop.sock_sendall(
                slow, f"GET /v1/events HTTP/1.1\r\nHost: {host}\r\nLast-Event-ID: 0\r\n\r\n".encode()
            )
            await asyncio.gather(*(plane.publish(f"edge-{n}") for n in range(200)))
            assert sum(len(f) for f in plane.engine.bus._followers.values()) == 0, "nothing is queued for it"
            text = b""
            async with asyncio.timeout(BOUND_S):
                while text.count(b"event: ready") < 200:
                    text += await loop.sock_recv(slow, 65536)
        body = b"".join(text.split(b"\r\n\r\n", 1)[1:])
        assert body.count(b"\nid: ") + body.count(b"\r\nid: ") >= 999


@pytest.mark.parametrize("last", ["-1", "x", "1.5", "9" * 30])
async def test_a_last_event_id_that_is_none_is_refused(plane: Plane, last: str) -> None:
    answer = await plane.client.get("/v1/events", headers={"Last-Event-ID": last})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_argument")


async def test_a_listener_of_everything_is_kept_alive(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "KEEP_ALIVE_S", 0.01)
    async with asyncio.timeout(BOUND_S), plane.client.stream("GET", "/v1/events") as answer:
        text = ""
        async for part in answer.aiter_text():
            text += part
            if ": keep-alive\n\n" in text:
                break
    assert text.startswith("id: 1\n\n"), "where to go on when it is cut before the first event"


# ---- machines


async def test_machines_are_what_the_engine_runs(plane: Plane) -> None:
    await plane.publish("edge-1")
    listed = {m["name"]: m for m in await get(plane, "/v1/machines")}
    assert list(listed) == list(TABLES)
    assert listed["provision"]["rows"]["ready"] == 1
    assert listed["cluster"]["rows"] == {"registered": 1, "draining": 0, "decommissioned": 0}
    for name, table in TABLES.items():
        machine = await get(plane, f"/v1/machines/{name}")
        assert hashlib.sha256(machine["body"].encode()).hexdigest() == machine["hash"] == table.definition_hash
        assert json.loads(machine["body"]) == table.definition()
        assert [s["name"] for s in machine["states"]] == [s.value for s in table.states]
        assert {s["name"] for s in machine["states"] if s["rest"] == {"kind": ""}} == set(machine["final"])
        assert len(machine["moves"]) == len(table.moves)
        assert machine["mermaid"].startswith("stateDiagram-v2")


async def test_an_unknown_machine_is_not_found_and_those_there_are_named(plane: Plane) -> None:
    answer = await plane.client.get("/v1/machines/washing")
    assert answer.status_code == 404
    assert answer.json()["detail"] == "machines: provision, teardown, recovery, enrolment, cluster"


# ---- enrolment tokens


async def mint(plane: Plane, **body: Any) -> dict[str, Any]:
    return dict((await plane.client.post(plane.tokens, json=body)).raise_for_status().json())


async def test_tokens_are_listed_without_their_secret_and_revoked(plane: Plane) -> None:
    first, second = await mint(plane), await mint(plane, one_shot=False, max_uses=3, expected_instance_uid="edge")
    answer = await plane.client.get(plane.tokens)
    assert [t["id"] for t in answer.json()] == [second["id"], first["id"]]
    assert first["token"] not in answer.text
    assert {k: v for k, v in answer.json()[0].items() if not k.endswith("_at")} == {
        "id": second["id"], "state": "minted", "use_count": 0, "max_uses": 3, "issuer": "local",
        "expected_instance_uid": "edge", "instance_uid": "",
    }  # fmt: skip
    for _ in range(2):
        revoked = await plane.client.delete(f"{plane.tokens}/{first['id']}")
        assert (revoked.status_code, revoked.json()["state"]) == (200, "revoked")
    assert [t["state"] for t in (await plane.client.get(plane.tokens)).json()] == ["minted", "revoked"]
    missing = await plane.client.delete(f"{plane.tokens}/tok-nope")
    assert (missing.status_code, missing.json()["code"]) == (404, "not_found")


async def test_a_token_says_what_became_of_it(plane: Plane) -> None:
    from mcpg.engine.agents import Introduction

    agents = plane.engine.agents
    once, twice, late = await mint(plane), await mint(plane, one_shot=False, max_uses=2), await mint(plane, ttl_ms=1)
    await agents.register(once["token"], Introduction("one", "test", {}))
    for uid in ("two", "three"):
        await agents.register(twice["token"], Introduction(uid, "test", {}))
    real = plane.engine.clock
    plane.engine.clock = lambda: real() + 2_000_000
    told = {t["id"]: t for t in (await plane.client.get(plane.tokens)).json()}
    assert [(told[t["id"]]["state"], told[t["id"]]["instance_uid"]) for t in (once, twice, late)] == [
        ("used", "one"), ("exhausted", "three"), ("expired", ""),
    ]  # fmt: skip


# ---- what every answer carries


@pytest.mark.parametrize("path", ["/healthz", "/v1/orgs", "/v1/nothing", "/v1/clusters?x=1"])
async def test_every_answer_says_which_version_gave_it(plane: Plane, path: str) -> None:
    assert (await plane.client.get(path)).headers["mcpg-version"] == __version__


async def test_a_stream_says_which_version_gives_it(plane: Plane) -> None:
    async with plane.client.stream("POST", plane.gateways, json={"name": "edge-1"}) as answer:
        assert answer.headers["mcpg-version"] == __version__


async def test_an_unknown_route_is_told_from_an_unknown_thing(plane: Plane) -> None:
    assert (await plane.client.get("/v1/nothing/here")).json()["details"] == {"route": "/v1/nothing/here"}
    assert (await plane.client.get("/v1/clusters/nothing")).json()["details"] == {}


async def test_a_ladder_is_not_held_back_for_an_acknowledgement(plane: Plane) -> None:
    """Small writes on a connection with Nagle's algorithm wait 40 ms for each other: every connection is without."""
    async with httpx.AsyncClient(base_url=plane.url, trust_env=False) as client:
        await client.get("/healthz")
        connections = [c.transport.get_extra_info("socket") for c in plane.control._http.connections]
    assert connections
    assert all(s.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for s in connections)


async def test_health_puts_the_most_urgent_first(start_plane: StartPlane) -> None:
    scripted = Scripted()
    async with start_plane(given=scripted, local_gateways_max=1) as plane:
        ready = await plane.publish("edge-1")
        await plane.client.post("/v1/admin/clusters/local/drain")
        scripted.remove_problems = [PermanentError("it will not die")]
        stuck = await plane.delete(ready[-1]["coords"]["instance_uid"])
        health = await get(plane, "/v1/clusters/health")
        assert [(a["severity"], a["kind"], a["subject"]) for a in health["attention"]] == [
            ("critical", "operation_paused", stuck[0]["operation_id"]),
            ("warning", "draining", "local"),
            ("warning", "full", "local"),
        ]
        assert health["attention"][0]["message"] == "delete edge-1 could not go on: it will not die"
        assert (health["clusters"], health["healthy"], health["degraded"], health["utilisation"]) == (1, 0, 1, 1.0)
