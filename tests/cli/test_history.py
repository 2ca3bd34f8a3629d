"""`provision history`: the table, every transition, and the server's array unchanged."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml
from syrupy.assertion import SnapshotAssertion

from mcpg.cli import history
from mcpg.machines.chain import entry, entry_hash
from mcpg.wire.base import rfc3339
from mcpg.wire.operations import Operation, Transition

from .fake import OPERATION, Ctl, Fake, data, operation

OPERATIONS = "/v1/orgs/acme/operations"
NOW = datetime(2026, 11, 22, 10, 24, 30, tzinfo=UTC)
STEPS = [
    ("", "requested", "accept", "ada", 0.0, 4.0, ""),
    ("requested", "allocating", "start", "engine", 4.0, 83.0, ""),
    ("allocating", "applying", "reserved", "engine", 87.0, 894.0, "us-east-shared-1, 2 places"),
    ("applying", "confirming", "applied", "local", 981.0, 1593.0, "pid 4711, 4712"),
    ("confirming", "ready", "confirmed", "engine", 2574.0, None, "config 9c41d2 acked by 2, endpoint 200 in 3ms"),
]


def steps() -> list[dict[str, Any]]:
    """A whole history as the server would answer it."""
    found = [
        Transition(
            seq=seq,
            at=datetime(2026, 11, 22, 10, 21, 7, tzinfo=UTC) + timedelta(milliseconds=offset),
            at_us=1_795_342_867_000_000 + int(offset * 1000),
            offset_ms=offset,
            source=source,
            dest=dest,
            phase="applying",
            event=event,
            actor=actor,
            message=message,
            in_state_ms=stayed,
            definition="provision@b61f0c9a21de",
        ).model_dump(mode="json")
        for seq, (source, dest, event, actor, offset, stayed, message) in enumerate(STEPS, 1)
    ]
    return chained(OPERATION, found)


def chained(subject: str, lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same lines, each with the hash it must have."""
    out: list[dict[str, Any]] = []
    for line in lines:
        linked = line | {"prev_hash": out[-1]["hash"] if out else ""}
        out.append(linked | {"hash": entry_hash(subject, entry("provision", linked))})
    return out


def operations() -> list[dict[str, Any]]:
    failed = operation(
        id="op-81aa",
        name="edge-2",
        state="failed",
        final_phase="failed",
        error="the gateway refused its config: unknown field `no_such_key`",
        code="unparseable_config",
        started_at="2026-11-22T09:21:07.114Z",
        duration_ms=79_300.0,
        transitions=1,
        history=chained("op-81aa", steps()[:1]),
    )
    running = operation(
        id="op-93d0",
        name="a-name-that-is-rather-long",
        state="confirming",
        final_phase="applying",
        running=True,
        started_at="2026-11-22T10:23:49Z",
        finished_at=None,
        duration_ms=41_000.0,
        transitions=4,
        history=chained(
            "op-93d0", [*steps()[:3], steps()[3] | {"in_state_ms": None, "attempt": 2, "reason": "replica 2 is silent"}]
        ),
    )
    return [running, operation(history=steps()), failed]


def test_the_fixtures_are_what_the_server_would_say() -> None:
    for each in operations():
        assert Operation.model_validate(each).model_dump(mode="json")["history"] == each["history"]


@pytest.mark.parametrize("width", [None, 80, 40])
def test_table(snapshot: SnapshotAssertion, width: int | None) -> None:
    lines = history.short(operations(), NOW.timestamp(), width)
    assert "\n".join(lines) == snapshot
    assert width is None or max(map(len, lines)) <= width


@pytest.mark.parametrize("argv", [("operation", "list"), ("provision", "history")])
def test_a_long_refusal_does_not_fill_a_list_that_is_piped(acme: Ctl, fake: Fake, argv: tuple[str, ...]) -> None:
    """The beginning stands in the row; all of it in every other output, and where the operation is shown."""
    words = " · ".join(f"us-{number}: 0 of 50 places are free" for number in range(20))
    said = operation(state="failed", final_phase="failed", error=words)
    fake.says("GET", "/v1/operations", data([said]))
    fake.says("GET", OPERATIONS, data([said]))
    fake.says("GET", "/v1/operations/op-1", data(said))
    _, row = acme(*argv).out.splitlines()
    cell = row[row.index("us-0: ") :]
    assert (cell[-1], words.startswith(cell[:-1].rstrip()), 90 < len(cell) <= 100) == ("…", True, True)
    assert words in acme(*argv, "-o", "wide").out
    assert acme(*argv, "-o", "json").json[0]["error"] == words
    assert words in acme("operation", "show", "op-1").out


def test_wide(snapshot: SnapshotAssertion) -> None:
    assert "\n".join(history.wide(operations())) == snapshot


@pytest.mark.parametrize("width", [None, 80])
def test_verbose(snapshot: SnapshotAssertion, width: int | None) -> None:
    assert "\n".join(history.verbose(operations(), NOW.timestamp(), width)) == snapshot


@pytest.mark.parametrize("field", ["reason", "at_us", "prev_hash", "seq"])
def test_a_chain_that_does_not_hold_is_said_to(field: str) -> None:
    """Worked out here: a server that was tampered with would say that all is well."""
    lines = steps()
    lines[2] = lines[2] | {field: "x" if isinstance(lines[2][field], str) else 9}
    assert history.chain(operation(), lines) == "chain broken at 3"


def test_a_chain_without_its_times_is_not_checked() -> None:
    lines = [{k: v for k, v in each.items() if k != "at_us"} for each in steps()]
    assert history.chain(operation(), lines) == "chain not checked"


def test_json_is_the_servers_array_unchanged(acme: Ctl, fake: Fake) -> None:
    """Also keys that this version does not know, in the server's order."""
    said = [operation(later={"z": 1, "a": [1.0, 2.5e-7, "é\x1b"]})]
    fake.says("GET", OPERATIONS, data(said))
    ran = acme("provision", "history", "-o", "json")
    assert (ran.code, ran.err, ran.out) == (0, "", json.dumps(said, indent=2) + "\n")


def test_the_other_outputs_hold_the_same(acme: Ctl, fake: Fake) -> None:
    fake.says("GET", OPERATIONS, data(operations()))
    lines = acme("provision", "history", "-o", "jsonl").out.splitlines()
    assert [json.loads(line) for line in lines] == operations()
    assert yaml.safe_load(acme("provision", "history", "-o", "yaml").out) == operations()
    assert acme("provision", "history", "-o", "name").out == "op-93d0\nop-7f2e\nop-81aa\n"


@pytest.mark.parametrize(
    ("argv", "query"), [([], "limit=20"), (["-v", "--limit", "3"], "limit=3&history=true"), (["--limit=1"], "limit=1")]
)
def test_what_is_asked_for(acme: Ctl, fake: Fake, argv: list[str], query: str) -> None:
    fake.says("GET", OPERATIONS, data([]))
    acme("provision", "history", *argv)
    assert [asked.query for asked in fake.asked] == [query]


def test_an_org_without_operations_says_so_to_people_only(acme: Ctl, fake: Fake) -> None:
    fake.says("GET", OPERATIONS, data([]))
    outs = [acme("provision", "history", "-o", output).out for output in ("table", "wide", "json", "name", "jsonl")]
    assert outs == ["no operations yet in acme\n", "no operations yet in acme\n", "[]\n", "", ""]


def test_the_age_counts_from_now(acme: Ctl, fake: Fake) -> None:
    started = rfc3339(datetime.fromtimestamp(time.time(), UTC) - timedelta(hours=2, minutes=30))
    fake.says("GET", OPERATIONS, data([operation(started_at=started)]))
    assert "  2h ago  " in acme("provision", "history").out


@pytest.mark.parametrize("missing", ["started_at", "duration_ms", "definition", "history", "actor", "workspace"])
def test_an_operation_of_another_version_may_lack_a_field(acme: Ctl, fake: Fake, missing: str) -> None:
    fake.says("GET", OPERATIONS, data([{key: value for key, value in operation().items() if key != missing}]))
    assert [acme("provision", "history", *argv).code for argv in ((), ("-v",), ("-o", "wide"))] == [0, 0, 0]


@pytest.mark.parametrize("said", [{"items": []}, ["x"], "x", None])
def test_what_is_no_array_of_operations_is_not_a_control_plane(acme: Ctl, fake: Fake, said: object) -> None:
    fake.says("GET", OPERATIONS, data(said))
    ran = acme("provision", "history")
    assert (ran.code, ran.out, "is not a control plane" in ran.err) == (6, "", True)


def tries(actors: list[str]) -> list[dict[str, Any]]:
    at = [{"seq": n, "event": "retry", "source": "applying", "dest": "applying"} for n in range(1, len(actors) + 1)]
    words = {"engine": "no binary", "local": "tried again now by local"}
    return [line | {"actor": actor, "reason": words[actor]} for line, actor in zip(at, actors, strict=True)]


def test_what_a_person_did_is_never_left_out_between_attempts_and_counts_as_none() -> None:
    lines = tries(["engine"] * 5 + ["local"] + ["engine"] * 6)
    shown = history.steps(lines, None)
    assert [row.split()[0] for row in shown[1:]] == ["1", "…", "4", "5", "6", "7", "…", "11", "12"]
    assert ["2 more" in shown[2], "by local" in shown[5], "3 more" in shown[7]] == [True, True, True]
    assert "12 transitions, 11 retries" in next(iter(history.tail({"id": OPERATION, "history": lines})))


def test_of_one_gateway_alone(acme: Ctl, fake: Fake) -> None:
    fake.says("GET", "/v1/operations", data([operation()]))
    ran = acme("provision", "history", "--name", "edge-1", "-o", "name")
    assert (ran.code, ran.out, fake.asked[0].query) == (0, f"{OPERATION}\n", "limit=20&org=acme&name=edge-1")
    fake.says("GET", "/v1/operations", data([]))
    assert acme("provision", "history", "--name", "edge-9").out == "no operations of edge-9 in acme\n"


def test_the_time_spent_so_far_counts_the_state_it_is_in() -> None:
    lines = [
        {"dest": "requested", "offset_ms": 0.0, "in_state_ms": 1000.0},
        {"dest": "waiting", "offset_ms": 1000.0, "in_state_ms": 9000.0},
        {"dest": "paused", "offset_ms": 10_000.0, "in_state_ms": None},
    ]
    operation = {"running": True, "duration_ms": 178_000.0, "history": lines}
    *_, last = history.tail(operation)
    assert last == "  2m58s in all: requested 1.0s · waiting 9.0s · paused 2m48s"
    *_, last = history.tail(operation | {"running": False})
    assert last == "  10s in all: requested 1.0s · waiting 9.0s"
