"""`doctor` on what a control plane looks after: by its API where one answers, by the database where none does."""

from __future__ import annotations

import json
import sqlite3
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from mcpg.wire.base import rfc3339

from .doctoring import *  # noqa: F403  fixtures
from .doctoring import Examine, Said
from .fake import Answer, Fake, data, operation


def at(seconds: float) -> str:
    """That many seconds from now."""
    return rfc3339(datetime.fromtimestamp(time.time() + seconds, UTC))


def running(id: str, state: str, moved: float, deadline: float | None = 60) -> dict[str, Any]:  # noqa: A002
    """An operation of the API that made its last move *moved* seconds from now."""
    return operation(
        id=id,
        state=state,
        running=True,
        started_at=at(-7200),
        finished_at=None,
        deadline_at=None if deadline is None else at(deadline),
        history=[{"at": at(-7200)}, {"at": at(moved)}],
    )


def insert(db: sqlite3.Connection, table: str, **fields: Any) -> None:
    """A row with these columns, and something of its kind in all others that need it."""
    for _, name, kind, needed, default, _ in db.execute(f"PRAGMA table_info({table})").fetchall():
        if name not in fields and needed and default is None:
            fields[name] = 0 if "INT" in kind.upper() else f"{name}-{len(fields)}"
    marks = ", ".join("?" * len(fields))
    db.execute(f"INSERT INTO {table} ({', '.join(fields)}) VALUES ({marks})", list(fields.values()))  # noqa: S608


# ---- operations


def test_operations_that_run_as_they_should(examine: Examine, answering: Fake) -> None:
    assert examine("operations") == Said("pass", "none is running", "")
    answering.says("GET", "/v1/operations", data([running("op-1", "applying", -20)]))
    assert examine("operations") == Said("pass", "1 running, none of them stuck", "")
    asked = [each.query for each in answering.asked if each.path == "/v1/operations"]
    assert set(asked) == {"running=true&history=true&limit=200"}


@pytest.mark.parametrize(
    "found",
    [running("op-1", "confirming", -400), running("op-1", "confirming", -40, -30)],
    ids=["no move", "past its deadline"],
)
def test_an_operation_that_is_stuck(examine: Examine, answering: Fake, found: dict[str, Any]) -> None:
    answering.says("GET", "/v1/operations", data([running("op-0", "applying", -1), found]))
    words = "op-1 (create edge-1) is confirming: no move for 5 minutes, or past its deadline"
    assert examine("operations") == Said("warn", words, "mcpg-ctl operation show op-1")


def test_operations_that_a_person_must_decide(examine: Examine, answering: Fake) -> None:
    answering.says("GET", "/v1/operations", data([running(f"op-{n}", "paused", -10, None) for n in range(5)]))
    words = ", ".join(f"op-{n} (create edge-1) is paused" for n in range(3))
    expected = f"{words} and 2 more: a person decides how it goes on"
    assert examine("operations") == Said("warn", expected, "mcpg-ctl operation show op-0")


def test_operations_that_wait_for_a_control_plane(examine: Examine, database: sqlite3.Connection) -> None:
    assert examine("operations") == Said("pass", "none is open", "")
    for id_, finished in (("op-1", None), ("op-2", 1)):
        insert(database, "operation", id=id_, kind="create", name="edge-1", state="applying", finished_at=finished)
    words = "op-1 (create edge-1) is applying, and no control plane runs to go on with it"
    assert examine("operations") == Said("warn", words, "mcpg-ctl serve")


# ---- what nobody looks after


def test_what_is_stranded_is_named_with_its_age_and_the_next_command(examine: Examine, answering: Fake) -> None:
    assert examine("stranded") == Said("pass", "nothing", "")
    hint = "mcpg-ctl operation explain op-1"
    words = "op-1 (create edge-1) is in applying and nobody drives it"
    found = [
        {"kind": "operation", "subject": "op-1", "message": words, "since": at(-200), "hint": hint},
        {
            "kind": "gateway",
            "subject": "u-1",
            "message": "edge-2 dials x",
            "since": at(-30.5),
            "hint": "mcpg-ctl version",
        },
    ]
    answering.says("GET", "/v1/stranded", data(found))
    assert examine("stranded") == Said("warn", f"{words}, for 3m; edge-2 dials x, for 30s", hint)


def test_a_control_plane_that_is_too_old_to_know_what_is_stranded(examine: Examine, answering: Fake) -> None:
    body = b'{"code": "not_found", "title": "x", "details": {"route": "/v1/stranded"}}'
    answering.says("GET", "/v1/stranded", Answer(body, 404))
    words = "this control plane (of an unknown version) does not know this"
    assert examine("stranded") == Said("skip", words, "")


# ---- agents, clusters, orphans


def instance(state: str, seen: float | None = -5, *, connected: bool = False) -> dict[str, Any]:
    agent = {"replica": 1, "state": state, "last_seen_at": None if seen is None else at(seen), "connected": connected}
    return {"instance_uid": "u-1", "name": "edge-1", "agents": [agent]}


def test_agents_that_are_connected(examine: Examine, answering: Fake) -> None:
    assert examine("agents") == Said("pass", "none is enrolled", "")
    found = [instance("online", connected=True), instance("enrolling", None)]
    answering.says("GET", "/v1/instances", data(found))
    assert examine("agents") == Said("pass", "2 enrolled, 1 connected", "")


@pytest.mark.parametrize("state", ["stale", "departed"])
def test_an_agent_that_is_not_heard(examine: Examine, answering: Fake, state: str) -> None:
    found = [instance("online", connected=True), instance(state, -130)]
    answering.says("GET", "/v1/instances", data(found))
    words = f"2 enrolled, 1 connected; not heard: edge-1, replica 1, {state} (last 2m ago)"
    assert examine("agents") == Said("warn", words, "mcpg-ctl instance show u-1")


def test_an_agent_that_is_online_by_its_last_word_and_not_connected(examine: Examine, answering: Fake) -> None:
    """It was killed: it stays online until it has said nothing for 90 s."""
    found = [*[instance("online", connected=True)] * 2, instance("online", -41.5)]
    answering.says("GET", "/v1/instances", data(found))
    words = "3 enrolled, 2 connected; not connected: edge-1, replica 1, online (last 41s ago)"
    assert examine("agents") == Said("warn", words, "mcpg-ctl instance show u-1")


@pytest.mark.parametrize("check", ["agents", "clusters", "stranded"])
def test_what_only_a_live_control_plane_can_tell(examine: Examine, database: sqlite3.Connection, check: str) -> None:
    """The database holds what was true when somebody last listened, which says nothing of now."""
    insert(database, "agent", id="a-1", state="online", instance_id="i-1", replica=1)
    assert examine(check) == Said("skip", "no control plane answers", "")


def test_clusters_that_are_reachable(examine: Examine, answering: Fake) -> None:
    assert examine("clusters") == Said("pass", "1, all reachable", "")


def test_without_a_cluster_no_gateway_can_be_placed(examine: Examine, answering: Fake) -> None:
    """Decommissioned ones are not listed."""
    answering.says("GET", "/v1/clusters", data([]))
    fix = "mcpg-ctl cluster register --name local --region local --gateways-max 20"
    assert examine("clusters") == Said("fail", "no cluster takes gateways", fix)


def test_clusters_that_all_drain_take_no_gateway(examine: Examine, answering: Fake) -> None:
    found = [{"name": name, "state": "draining", "reachable": True} for name in ("eu 1", "eu-2")]
    answering.says("GET", "/v1/clusters", data(found))
    words = "no cluster takes gateways: eu 1, eu-2 are draining"
    assert examine("clusters") == Said("fail", words, "mcpg-ctl cluster undrain 'eu 1'")


def test_a_cluster_that_is_not_reachable(examine: Examine, answering: Fake) -> None:
    found = [{"name": "local", "reachable": True}, {"name": "eu-1", "reachable": False, "reason": "no answer for 12m"}]
    answering.says("GET", "/v1/clusters", data(found))
    assert examine("clusters") == Said("warn", "unreachable: eu-1: no answer for 12m", "mcpg-ctl cluster health")


def test_orphans_by_the_api(examine: Examine, answering: Fake) -> None:
    assert examine("orphans") == Said("pass", "none", "")
    answering.says("GET", "/v1/instances", data([instance("online")]))
    words = "edge-1: running on without a cluster, to be adopted or reaped"
    assert examine("orphans") == Said("warn", words, "mcpg-ctl instance list --orphaned")
    assert "orphaned=true" in [each.query for each in answering.asked if each.path == "/v1/instances"]


def test_orphans_by_the_database(examine: Examine, database: sqlite3.Connection) -> None:
    assert examine("orphans") == Said("pass", "none", "")
    for name, deleted in (("edge-1", None), ("edge-2", 1)):
        insert(database, "instance", id=name, instance_uid=name, name=name, orphaned_at=1, deleted_at=deleted)
    assert examine("orphans").detail == "edge-1: running on without a cluster, to be adopted or reaped"


# ---- states


def test_rows_in_known_states_by_the_api(examine: Examine, answering: Fake) -> None:
    found = {"name": "cluster", "states": 2, "rows": {"registered": 3, "draining": 0}}
    answering.says("GET", "/v1/machines", data([found]))
    assert examine("states") == Said("pass", "3 rows, all in known states", "")


def test_rows_in_an_unknown_state_by_the_api(examine: Examine, answering: Fake) -> None:
    found = {"name": "cluster", "states": 1, "rows": {"registered": 3, "hibernating": 2}}
    answering.says("GET", "/v1/machines", data([found]))
    answering.says("GET", "/v1/machines/cluster", data(found | {"states": [{"name": "registered"}]}))
    expected = Said("warn", "unknown here: 2 cluster in hibernating", "pip install --upgrade mcpg-control-plane")
    assert examine("states") == expected


def test_rows_in_an_unknown_state_by_the_database(examine: Examine, database: sqlite3.Connection) -> None:
    """Compared with the definitions that the database itself holds."""
    assert json.loads(database.execute("SELECT body FROM definition").fetchone()[0])["states"]
    insert(database, "operation", id="op-1", machine="provision", state="ready", finished_at=1)
    assert examine("states") == Said("pass", "1 row, all in known states", "")
    insert(database, "operation", id="op-2", machine="provision", state="hovering", finished_at=1)
    insert(database, "operation", id="op-3", machine="teleport", state="ready", finished_at=1)
    words = "unknown here: 1 provision in hovering, 1 of the machine teleport"
    assert examine("states") == Said("warn", words, "pip install --upgrade mcpg-control-plane")


# ---- a control plane that does not tell


@pytest.mark.parametrize(
    ("check", "path"),
    [
        ("operations", "operations"),
        ("agents", "instances"),
        ("clusters", "clusters"),
        ("orphans", "instances"),
        ("states", "machines"),
        ("stranded", "stranded"),
    ],
)
def test_a_control_plane_that_does_not_say(examine: Examine, answering: Fake, check: str, path: str) -> None:
    answering.says("GET", f"/v1/{path}", Answer(b'{"code": "forbidden", "title": "not for you"}', 403))
    assert examine(check) == Said("skip", "the control plane does not say: not for you", "")
