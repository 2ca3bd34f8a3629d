"""`operation list|show|attach|wait|export`: the operations of every org. What only a terminal shows: test_terminal.py."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion

from mcpg import errors

from .bodies import before, masked
from .fake import (
    GATEWAYS,
    HAPPY,
    OPERATION,
    SILENT,
    Answer,
    Ctl,
    Fake,
    data,
    end,
    operation,
    refusal,
    step,
    stream,
)
from .test_create import FAILED
from .test_history import steps

ONE = f"/v1/operations/{OPERATION}"
EVENTS = f"{ONE}/events"
CREATE = ("provision", "create", "--name", "edge-1")


def operations() -> list[dict[str, Any]]:
    failed = operation(
        id="op-81aa",
        org="beta",
        final_phase="failed",
        state="failed",
        error="refused",
        started_at=str(before(hours=3.5)),
    )
    return [operation(started_at=str(before(minutes=3.5))), failed]


@pytest.mark.parametrize("output", ["table", "wide", "name"])
def test_the_list_is_of_every_org(ctl: Ctl, fake: Fake, snapshot: SnapshotAssertion, output: str) -> None:
    fake.says("GET", "/v1/operations", data([each | {"started_at": "?"} for each in operations()]))
    ran = ctl("operation", "list", "--cp-url", fake.url, "-o", output)
    assert (ran.code, ran.err, ran.out) == (0, "", snapshot)
    assert [asked.query for asked in fake.asked] == ["limit=20"]


def test_what_is_asked_for(acme: Ctl, fake: Fake) -> None:
    fake.says("GET", "/v1/operations", data([]))
    ran = acme("operation", "list", "--running", "--kind", "create", "--name", "edge-1", "--limit", "3")
    assert fake.asked[0].query == "limit=3&org=acme&kind=create&name=edge-1&running=true"
    assert ran.out == "no operations with org=acme kind=create name=edge-1 running=true\n"


def test_the_age_counts_from_now(acme: Ctl, fake: Fake) -> None:
    fake.says("GET", "/v1/operations", data(operations()))
    assert ["  3m ago  " in line for line in acme("operation", "list").out.splitlines()] == [False, True, False]


@pytest.mark.parametrize("output", ["table", "wide"])
@pytest.mark.parametrize("which", ["over", "running", "failed"])
def test_one_and_every_move_it_made(
    acme: Ctl, fake: Fake, snapshot: SnapshotAssertion, which: str, output: str
) -> None:
    more = {
        "over": {},
        "running": {
            "running": True, "state": "confirming", "final_phase": "applying", "finished_at": None,
            "deadline_at": before(seconds=-90.4).isoformat(),
        },
        "failed": {"state": "failed", "final_phase": "failed", "error": "the gateway refused its config"},
    }[which]  # fmt: skip
    said = operation(started_at=before(minutes=3.5).isoformat(), history=steps(), **more)
    fake.says("GET", "/v1/operations/op-7", data(said))
    ran = acme("operation", "show", "op-7", "-o", output)
    assert (ran.code, ran.err) == (0, "")
    assert masked(ran.out.replace(said["started_at"], "AT")) == snapshot
    assert acme("operation", "show", "op-7", "-o", "json").json == said


def test_a_row_that_is_damaged_is_said_to_be(acme: Ctl, fake: Fake) -> None:
    fake.says("GET", "/v1/operations/op-7", data(operation() | {"damaged": ["spec"], "replicas": 0}))
    shown = acme("operation", "show", "op-7").out.splitlines()
    words = "the row's spec cannot be read, it was edited; mcpg-ctl audit verify tells more"
    assert f"  damaged   {words}" in shown


def test_a_deadline_that_passed_is_said_to_have(acme: Ctl, fake: Fake) -> None:
    """A control plane that was away gives a gateway time to come back beyond it."""
    passed = before(seconds=90.4).isoformat()
    fake.says("GET", ONE, data(operation(running=True, state="confirming", deadline_at=passed)))
    assert "confirming, deadline 1m30s ago" in acme("operation", "show", OPERATION).out


@pytest.mark.parametrize(
    ("phase", "running", "code"),
    [("ready", False, 0), ("deleted", False, 0), ("failed", False, 1), ("cancelled", False, 1), ("applying", True, 8),
     ("paused", True, 8)],
)  # fmt: skip
def test_the_exit_status_is_how_it_is(acme: Ctl, fake: Fake, phase: str, running: bool, code: int) -> None:
    fake.says("GET", ONE, data(operation(final_phase=phase, running=running)))
    codes = [acme("operation", "show", OPERATION, *argv).code for argv in ((), ("--exit-status",))]
    assert codes == [0, code]


LADDERS = {
    "happy": ((*HAPPY, end(3, "ready", ok=True)), operation()),
    "failed": (
        (*FAILED, end(5, "failed", ok=False)),
        operation(final_phase="failed", state="failed", code="unparseable_config", error="x"),
    ),
    "paused": (
        (step(1, "applying"), step(2, "paused", message="stuck"), end(2, "paused", ok=False)),
        operation(final_phase="paused", state="paused", running=True),
    ),
    "cancelled": (
        (step(1, "applying"), step(2, "cancelled", reason="by ada"), end(2, "cancelled", ok=False)),
        operation(final_phase="cancelled", state="cancelled"),
    ),
}


@pytest.mark.parametrize("case", LADDERS)
@pytest.mark.parametrize("output", ["table", "json"])
def test_attach_shows_and_ends_as_create_did(acme: Ctl, fake: Fake, case: str, output: str) -> None:
    """The same lines on stderr, the same result on stdout, the same exit code."""
    events, said = LADDERS[case]
    fake.says("POST", GATEWAYS, stream(*events[:-1]))
    fake.says("GET", f"/v1/orgs/acme/operations/{OPERATION}", data(said))
    fake.says("GET", ONE, data(said))
    fake.says("GET", EVENTS, stream(*events))
    created = acme(*CREATE, "-o", output)
    attached = acme("operation", "attach", OPERATION, "-o", output)
    assert created == attached
    assert fake.asked[-2].headers["last-event-id"] == "0"


def test_attach_takes_a_prefix_and_follows_the_whole_id(acme: Ctl, fake: Fake) -> None:
    fake.says("GET", "/v1/operations/op-7", data(operation()))
    fake.says("GET", EVENTS, stream(*HAPPY))
    fake.says("GET", ONE, data(operation()))
    assert acme("operation", "attach", "op-7", "-o", "json").json["operation_id"] == OPERATION


def test_attach_ends_at_its_timeout_and_the_operation_goes_on(acme: Ctl, fake: Fake) -> None:
    fake.says("GET", ONE, data(operation(running=True, final_phase="applying")))
    fake.says("GET", EVENTS, stream(HAPPY[0], then="hang"))
    ran = acme("operation", "attach", OPERATION, "--timeout", "1", "-o", "json")
    assert (ran.code, ran.error["code"], ran.error["hint"]) == (
        124,
        "timeout",
        f"mcpg-ctl operation attach {OPERATION}",
    )


@pytest.mark.parametrize("words", ["show", "attach", "wait", "export", "watch"])
def test_an_operation_that_is_not_there(acme: Ctl, fake: Fake, words: str) -> None:
    no = refusal(errors.NotFound("no operation op-x", hint="mcpg-ctl operation list shows them"))
    fake.says("GET", "/v1/operations/op-x", no)
    fake.says("GET", "/v1/operations/op-x/export", no)
    ran = acme("operation", words, "op-x")
    assert (ran.code, ran.err.splitlines()[0]) == (3, "error: no operation op-x")


def over(fake: Fake, operation_id: str, phase: str, *first: Answer) -> None:
    said = operation(
        id=operation_id,
        name=f"for-{operation_id}",
        final_phase=phase,
        state=phase,
        error="it fell" * (phase == "failed"),
    )
    fake.says("GET", f"/v1/operations/{operation_id}", data(said))
    events = (*first, stream(end(9, phase, ok=True)))
    named = [each._replace(body=each.body.replace(OPERATION.encode(), operation_id.encode())) for each in events]
    fake.says("GET", f"/v1/operations/{operation_id}/events", *named)


def test_wait_is_silent_and_ends_when_all_have(acme: Ctl, fake: Fake) -> None:
    over(fake, "op-1", "ready", stream(HAPPY[0], then="cut"))
    over(fake, "op-2", "deleted")
    assert acme("operation", "wait", "op-1", "op-2") == (0, "", "")
    assert acme("operation", "wait", "--id", "op-1,op-2") == (0, "", "")
    found = acme("operation", "wait", "op-1", "op-2", "-o", "json").json
    assert [each["id"] for each in found] == ["op-1", "op-2"]


def test_wait_says_which_did_not_end_well(acme: Ctl, fake: Fake, snapshot: SnapshotAssertion) -> None:
    over(fake, "op-1", "ready")
    over(fake, "op-2", "failed")
    over(fake, "op-3", "cancelled")
    ran = acme("operation", "wait", "op-1", "op-2", "op-3")
    assert (ran.code, ran.out, ran.err) == (1, "", snapshot)


def test_wait_says_what_is_pending_when_its_time_is_up(acme: Ctl, fake: Fake, snapshot: SnapshotAssertion) -> None:
    over(fake, "op-1", "ready")
    over(fake, "op-2", "ready", stream(HAPPY[0], then="hang"))
    over(fake, "op-3", "ready", stream(HAPPY[0], then="hang"))
    ran = acme("operation", "wait", "op-1", "op-2", "op-3", "--timeout", "2")
    assert (ran.code, ran.out, ran.err) == (124, "", snapshot)


def test_what_waits_for_an_operator_is_still_waited_for(acme: Ctl, fake: Fake) -> None:
    paused = stream(step(1, "paused"), end(1, "paused", ok=False))
    over(fake, "op-1", "ready", paused)
    assert acme("operation", "wait", "op-1", "--timeout", "0.3").code == 124


DOCUMENT = b'{"definition":{},"format":"mcpg-operation/1","operation":{"id":"op-7f2e","name":"\\u00e9\xc3\xa9"}}'


@pytest.fixture
def exported(fake: Fake) -> Fake:
    fake.says("GET", f"{ONE}/export", Answer(DOCUMENT))
    return fake


def test_export_writes_the_servers_bytes(acme: Ctl, exported: Fake, tmp_path: Path) -> None:
    path = tmp_path / "op.json"
    assert acme("operation", "export", OPERATION, "--file", str(path)).code == 0
    assert path.read_bytes() == DOCUMENT
    assert [each.name for each in tmp_path.iterdir() if each.suffix == ".part"] == []


@pytest.mark.usefixtures("acme", "exported")
def test_export_prints_the_servers_bytes() -> None:
    command = [sys.executable, "-m", "mcpg.cli.main", "operation", "export", OPERATION]
    assert subprocess.run(command, capture_output=True, check=True).stdout == DOCUMENT


def test_export_overwrites_nothing_unless_forced(acme: Ctl, exported: Fake, tmp_path: Path) -> None:
    path = tmp_path / "op.json"
    path.write_text("mine")
    refused = acme("operation", "export", OPERATION, "--file", str(path))
    assert (refused.code, path.read_text(), exported.asked) == (1, "mine", [])
    assert refused.err.splitlines()[0] == f"error: {path} exists already"
    assert (acme("operation", "export", OPERATION, "--file", str(path), "--force").code, path.read_bytes()) == (
        0,
        DOCUMENT,
    )


def test_an_export_that_cannot_be_written_leaves_nothing(acme: Ctl, exported: Fake, tmp_path: Path) -> None:
    ran = acme("operation", "export", OPERATION, "--file", str(tmp_path / "no" / "op.json"))
    assert (ran.code, "No such file or directory" in ran.err, list(tmp_path.iterdir())) == (1, True, [])


def test_what_is_no_json_is_not_exported(acme: Ctl, fake: Fake, tmp_path: Path) -> None:
    fake.says("GET", f"{ONE}/export", Answer(b"<h1>hi", content_type="text/html"))
    ran = acme("operation", "export", OPERATION, "--file", str(tmp_path / "op.json"))
    assert (ran.code, "is not a control plane" in ran.err, list(tmp_path.iterdir())) == (6, True, [])


def test_a_server_that_is_silent_from_the_start_is_an_error_at_once(acme: Ctl, fake: Fake) -> None:
    fake.says("GET", ONE, SILENT)
    assert [acme("operation", words, OPERATION).code for words in ("attach", "wait", "watch")] == [6, 6, 6]


def test_jsonl_is_one_operation_a_line(acme: Ctl, fake: Fake) -> None:
    said = [operation(), operation(id="op-81aa")]
    fake.says("GET", "/v1/operations", data(said))
    assert [json.loads(line) for line in acme("operation", "list", "-o", "jsonl").out.splitlines()] == said


@pytest.mark.parametrize("ids", [("", ""), (",",), ("--", ",,"), ("op-1", ""), (" ",)], ids=repr)
def test_wait_refuses_an_empty_id(acme: Ctl, fake: Fake, ids: tuple[str, ...]) -> None:
    """A variable that was never set must not pass for an operation that ended well."""
    ran = acme("operation", "wait", *ids)
    assert (ran.code, ran.out, fake.asked) == (2, "", [])
    assert ran.err.startswith("error: mcpg-ctl operation wait needs the id of every operation to wait for\n")
