"""`instance list|show|adopt|reap`: the gateways of the fleet, and what becomes of orphans."""

from __future__ import annotations

import io
import sys

import pytest
from syrupy.assertion import SnapshotAssertion

from mcpg import errors
from mcpg.wire.fleet import Stranded

from .bodies import OTHER_UID, before, instance, masked, orphan
from .fake import OPERATION, Ctl, Fake, data, operation, refusal, step, stream

SHOWN = f"/v1/instances/{OTHER_UID}"
ADOPT = f"/v1/orgs/acme/instances/{OTHER_UID}/adopt"
REAP = f"/v1/orgs/acme/instances/{OTHER_UID}/reap"


@pytest.mark.parametrize("output", ["table", "wide", "name"])
def test_the_list(acme: Ctl, fake: Fake, snapshot: SnapshotAssertion, output: str) -> None:
    fake.says(
        "GET", "/v1/instances", data([instance(), orphan(), instance(name="", state="enrolling", last_seen_at=None)])
    )
    ran = acme("instance", "list", "-o", output)
    assert (ran.code, ran.err, ran.out) == (0, "", snapshot)


@pytest.mark.parametrize(
    ("argv", "query"), [((), "org=acme"), (("--orphaned",), "org=acme&orphaned=true"), (("--org", "beta"), "org=beta")]
)
def test_what_is_asked_for(acme: Ctl, fake: Fake, argv: tuple[str, ...], query: str) -> None:
    fake.says("GET", "/v1/instances", data([]))
    acme("instance", "list", *argv)
    assert [asked.query for asked in fake.asked] == [query]


def test_the_whole_fleet_needs_no_org(ctl: Ctl, fake: Fake) -> None:
    fake.says("GET", "/v1/instances", data([]))
    assert ctl("instance", "list", "--cp-url", fake.url).out == "no gateways\n"
    assert ctl("instance", "list", "--orphaned", "--cp-url", fake.url, "-o", "json").out == "[]\n"
    assert [asked.query for asked in fake.asked] == ["", "orphaned=true"]


@pytest.mark.parametrize("which", ["a gateway", "an orphan"])
def test_one_with_its_agents(acme: Ctl, fake: Fake, snapshot: SnapshotAssertion, which: str) -> None:
    said = instance(operation_id=OPERATION) if which == "a gateway" else orphan()
    fake.says("GET", "/v1/instances/019a3c1e", data(said))
    ran = acme("instance", "show", "019a3c1e")
    assert (ran.code, ran.err, masked(ran.out)) == (0, "", snapshot)
    assert acme("instance", "show", "019a3c1e", "-o", "json").json == said


def adopting(fake: Fake) -> None:
    fake.says("GET", "/v1/instances/edge", data(orphan()))
    events = (
        step(1, "allocating", message="adopt edge-3"),
        step(
            2,
            "ready",
            message="us-2 (3 of 20 gateways)",
            coords={"instance_uid": OTHER_UID, "endpoints": ["http://x/mcp"]},
        ),
    )
    fake.says("POST", ADOPT, stream(*events))
    fake.says("GET", f"/v1/orgs/acme/operations/{OPERATION}", data(operation(kind="adopt", name="edge-3")))


def test_adopt_shows_a_ladder_and_the_gateway(acme: Ctl, fake: Fake, snapshot: SnapshotAssertion) -> None:
    """Its org comes from the gateway itself, whatever the environment says."""
    adopting(fake)
    ran = acme("instance", "adopt", "edge")
    assert (ran.code, ran.err) == (0, snapshot(name="ladder"))
    assert ran.out == snapshot(name="result")
    assert (fake.asked[1].path, fake.asked[1].body, len(fake.asked[1].headers["idempotency-key"])) == (ADOPT, {}, 32)


def test_adopt_into_a_named_cluster_and_without_waiting(acme: Ctl, fake: Fake) -> None:
    adopting(fake)
    ran = acme("instance", "adopt", "edge", "--cluster", "us-2", "--no-wait", "-o", "name")
    assert (ran, fake.asked[1].body) == ((0, f"{OPERATION}\n", ""), {"cluster": "us-2"})


def test_what_is_no_orphan_is_not_adopted(acme: Ctl, fake: Fake) -> None:
    adopting(fake)
    fake.says("POST", ADOPT, refusal(errors.Refused("edge-3 is no orphan", cause="it lives in us-1")))
    ran = acme("instance", "adopt", "edge")
    assert (ran.code, ran.out, ran.err.splitlines()[:2]) == (
        5,
        "",
        ["error: edge-3 is no orphan", "cause: it lives in us-1"],
    )


def reaping(fake: Fake) -> None:
    fake.says("GET", "/v1/instances/edge", data(orphan()))
    fake.says("POST", REAP, stream(step(1, "deleting", message="reap edge-3"), step(2, "deleted")))
    fake.says("GET", f"/v1/orgs/acme/operations/{OPERATION}", data(operation(kind="delete", name="edge-3")))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("answer", "code", "count"), [("y\n", 0, 3), ("\n", 1, 1), ("edge-3\n", 1, 1)], ids=["y", "enter", "its name"]
)
def test_reap_asks_first(
    acme: Ctl,
    fake: Fake,
    monkeypatch: pytest.MonkeyPatch,
    snapshot: SnapshotAssertion,
    answer: str,
    code: int,
    count: int,
) -> None:
    reaping(fake)
    screen = Terminal()
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("CI", "1")
    assert (acme("instance", "reap", "edge").code, len(fake.asked)) == (code, count)
    question = next(line for line in screen.getvalue().splitlines() if "[y/N]" in line)
    assert question.partition("[y/N]")[0] == snapshot(name="question")


def test_reap_without_a_terminal_needs_yes(acme: Ctl, fake: Fake) -> None:
    reaping(fake)
    assert (acme("instance", "reap", "edge").code, len(fake.asked)) == (2, 1)
    assert (acme("instance", "reap", "edge", "--yes", "-o", "json").json["phase"], fake.asked[2].path) == (
        "deleted",
        REAP,
    )


@pytest.mark.parametrize("words", ["show", "adopt", "reap"])
def test_a_gateway_must_be_named_and_exist(acme: Ctl, fake: Fake, words: str) -> None:
    unnamed = acme("instance", words)
    assert (unnamed.code, fake.asked, unnamed.err.splitlines()[0]) == (
        2,
        [],
        f"error: instance {words} needs --instance-uid",
    )
    fake.says("GET", "/v1/instances/nope", refusal(errors.NotFound("no instance nope")))
    assert acme("instance", words, "nope").code == 3


@pytest.mark.parametrize("missing", ["agents", "cluster", "last_seen_at", "created_at", "assigned_hash", "org"])
def test_a_gateway_of_another_version_may_lack_a_field(acme: Ctl, fake: Fake, missing: str) -> None:
    said = {key: value for key, value in instance().items() if key != missing}
    fake.says("GET", "/v1/instances", data([said]))
    fake.says("GET", "/v1/instances/x", data(said))
    lines = (("list",), ("list", "-o", "wide"), ("show", "x"))
    assert [acme("instance", *argv).code for argv in lines] == [0, 0, 0]


def test_where_a_replica_writes_is_shown(acme: Ctl, fake: Fake) -> None:
    agent = {"replica": 1, "state": "online", "pid": 4711, "log": "/state/gateways/x/replica-1/log"}
    fake.says(
        "GET", "/v1/instances/edge", data({"instance_uid": "x", "name": "edge", "state": "online", "agents": [agent]})
    )
    shown = acme("instance", "show", "edge").out
    assert "  log 1       /state/gateways/x/replica-1/log  pid 4711" in shown.splitlines()


def test_a_gateway_that_nobody_looks_after_says_so(acme: Ctl, fake: Fake) -> None:
    """Beside its state in the list, and with the whole reason and the next command where it is shown."""
    alone = Stranded(
        kind="gateway",
        subject=OTHER_UID,
        brief="not supervised",
        message="edge-1 is not supervised: its recovery op-1 was cancelled; a replica of it is down",
        since=before(minutes=3.5),
        hint="mcpg-ctl operation retry op-1",
    )
    said = instance(state="departed", stranded=alone)
    fake.says("GET", "/v1/instances", data([said, instance()]))
    _, first, second = acme("instance", "list").out.splitlines()
    assert ("  departed (not supervised)  " in first, "not supervised" in second) == (True, False)
    fake.says("GET", "/v1/instances/019a3c1e", data(said))
    title, *facts = acme("instance", "show", "019a3c1e").out.splitlines()
    assert title.endswith("  departed (not supervised)")
    assert f"  not supervised  3m ago: {alone.message}; {alone.hint}" in facts
    assert acme("instance", "show", "019a3c1e", "-o", "json").json["stranded"]["brief"] == "not supervised"


def test_some_of_the_replicas_serve(acme: Ctl, fake: Fake) -> None:
    """The state is the worst replica's; how many are online stands beside it, unless all or none are."""
    agents = [{"id": "a-1", "replica": 1, "state": "online"}, {"id": "a-2", "replica": 2, "state": "departed"}]
    half = instance(
        state="departed",
        replicas=2,
        agents=agents,
        operation_kind="recover",
        operation_phase="paused",
        operation_id=OPERATION,
    )
    none = instance(state="departed", replicas=1, agents=agents[1:])
    fake.says("GET", "/v1/instances", data([half, none]))
    _, first, second = acme("instance", "list").out.splitlines()
    assert "  departed, 1/2 online (paused)  " in first
    assert "  departed  " in second
    fake.says("GET", "/v1/instances/019a3c1e", data(half))
    assert acme("instance", "show", "019a3c1e").out.splitlines()[0].endswith("  departed, 1/2 online")
