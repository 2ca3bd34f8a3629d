"""`operation watch`: every transition once, as it happens, whatever happens to the connection."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion

from mcpg import errors
from mcpg.cli.client import Api
from mcpg.cli.watching import lines
from mcpg.wire.events import FleetEvent
from tests.bounds import BOUND_S

from .fake import AT, OPERATION, SILENT, Ctl, Fake, data, end, operation, refusal, step, stream

ALL = "/v1/events"
ONE = f"/v1/operations/{OPERATION}"
WATCH = ("operation", "watch", "--timeout", "2")


def happened(journal_id: int, state: str = "applying", **more: Any) -> bytes:
    """A line of the whole fleet, framed as the server frames it."""
    fields: dict[str, Any] = {
        "operation_id": OPERATION, "seq": 2, "phase": state, "state": state, "event": "reserved", "at": AT.format(2),
        "org": "acme", "workspace": "prod", "environment": "us", "name": "edge-1", "kind": "create", "actor": "engine",
        "message": "us-east-shared-1",
    }  # fmt: skip
    event = FleetEvent(**fields | more)
    return f"id: {journal_id}\nevent: {event.phase}\ndata: {event.model_dump_json()}\n\n".encode()


LONG = {"name": "a-name-that-is-rather-long", "state": "compensating", "kind": "delete", "message": "", "reason": "why"}


@pytest.mark.parametrize("output", ["table", "wide", "name", "yaml"])
def test_a_row_an_event_in_columns_that_stay(acme: Ctl, fake: Fake, snapshot: SnapshotAssertion, output: str) -> None:
    fake.says("GET", ALL, stream(happened(41), happened(42, **LONG), happened(43, "ready"), then="hang"))
    ran = acme(*WATCH, "-o", output)
    assert (ran.code, ran.err, ran.out) == (124, "", snapshot)


@pytest.mark.parametrize("output", ["json", "jsonl"])
def test_one_object_a_line(acme: Ctl, fake: Fake, output: str) -> None:
    fake.says("GET", ALL, stream(happened(41), happened(43, "ready"), then="hang"))
    found = [json.loads(line) for line in acme(*WATCH, "-o", output).out.splitlines()]
    assert [(each["state"], each["org"], each["name"]) for each in found] == [
        ("applying", "acme", "edge-1"),
        ("ready", "acme", "edge-1"),
    ]


def test_one_operation_from_its_first_event_to_its_end(acme: Ctl, fake: Fake, snapshot: SnapshotAssertion) -> None:
    """Its events hold no name; they are given the operation's own, so that both kinds of watch look alike."""
    fake.says("GET", "/v1/operations/op-7", data(operation()))
    events = (step(1, "allocating", message="create edge-1"), step(2, "ready"), end(2, "ready", ok=True))
    fake.says("GET", f"{ONE}/events", stream(*events))
    ran = acme("operation", "watch", "op-7")
    assert (ran.code, ran.err, ran.out) == (0, "", snapshot)
    assert fake.asked[1].headers["last-event-id"] == "0"
    first = json.loads(acme("operation", "watch", "op-7", "-o", "jsonl").out.splitlines()[0])
    assert (first["name"], first["org"], first["seq"]) == ("edge-1", "acme", 1)


class Case:
    """The events of a fleet against the fake, with pauses that are only counted."""

    def __init__(self, fake: Fake) -> None:
        self.fake = fake
        self.api = Api(fake.url)
        self.notes: list[str] = []
        self.pauses: list[float] = []
        self.found = lines(self.api, ("v1", "events"), "", self.notes.append, pause=self.pauses.append)

    def seen(self, count: int) -> list[str]:
        return [str(next(self.found)["state"]) for _ in range(count)]

    def after(self) -> list[str | None]:
        return [asked.headers.get("last-event-id") for asked in self.fake.asked]


@pytest.fixture
def case(fake: Fake) -> Iterator[Case]:
    case = Case(fake)
    yield case
    case.api.close()


@pytest.mark.parametrize("then", ["end", "cut"])
def test_it_goes_on_after_the_last_event(case: Case, then: str) -> None:
    case.fake.says(
        "GET",
        ALL,
        stream(happened(41, "a"), then=then),
        stream(happened(42, "b"), then=then),
        stream(happened(43, "c")),
    )
    assert (case.seen(3), case.after(), case.pauses) == (["a", "b", "c"], [None, "41", "42"], [0.1, 0.1])
    assert case.notes[0].startswith("connection lost, going on after event 41: ")


def test_a_stream_that_was_cut_before_its_first_event_goes_on_where_it_began(case: Case) -> None:
    """The server says at once, with an id alone, where "now" is: nothing between the two streams is lost."""
    case.fake.says("GET", ALL, stream(b"id: 40\n\n", then="cut"), stream(happened(41)))
    assert (case.seen(1), case.after()) == (["applying"], [None, "40"])


def test_a_restart_is_waited_out(case: Case) -> None:
    down = [SILENT, refusal(errors.Unavailable("stopping")), SILENT, SILENT, SILENT, SILENT]
    case.fake.says("GET", ALL, stream(happened(41, "a"), then="cut"), *down, stream(happened(42, "b")))
    assert (case.seen(2), set(case.after()[1:])) == (["a", "b"], {"41"})
    assert (case.pauses, len(case.notes)) == ([0.1, 0.4, 1.0, 2.0, 4.0, 5.0, 5.0], 1)


def test_a_control_plane_that_is_gone_for_good_is_given_up(fake: Fake) -> None:
    gone = Api("http://127.0.0.1:1")
    with pytest.raises(errors.Unreachable):
        next(lines(gone, ("v1", "events"), "", [].append))
    gone.close()


def test_silence_ends_when_patience_does(case: Case) -> None:
    case.fake.says("GET", ALL, stream(happened(41), then="cut"), refusal(errors.Unavailable("stopping")))
    assert case.seen(1) == ["applying"]
    with pytest.raises(errors.Unreachable) as caught:
        next(case.found)
    assert (caught.value.details, 300 < sum(case.pauses) < 330) == ({"last_event_id": "41"}, True)


def test_a_refusal_is_final(case: Case) -> None:
    case.fake.says("GET", ALL, refusal(errors.NotSignedIn("sign in first")))
    with pytest.raises(errors.McpgError, match="sign in first"):
        case.seen(1)
    assert case.pauses == []


def started(fake: Fake, *argv: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "mcpg.cli.main", "operation", "watch", *argv]
    environ = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "MCPG_CP_URL": fake.url}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ)


def test_each_row_is_flushed_and_ctrl_c_ends_it(fake: Fake) -> None:
    """A reader behind a pipe has it while the watch goes on."""
    fake.says("GET", ALL, stream(happened(41), then="hang"))
    with started(fake, "-o", "jsonl") as process:
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], BOUND_S)
        if not ready:
            process.kill()
        assert json.loads(process.stdout.readline())["state"] == "applying"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=BOUND_S)
    assert (process.returncode, out, err) == (130, "", "")


def test_a_reader_that_leaves_ends_it(fake: Fake) -> None:
    fake.says("GET", ALL, stream(*(happened(number) for number in range(1, 2000)), then="hang"))
    with started(fake) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        assert (process.stderr.read(), process.wait(BOUND_S)) == ("", 141)


def test_an_id_that_no_header_can_carry_is_not_sent_back(fake: Fake) -> None:
    fake.says("GET", ALL, stream(happened(41), b"id: \xc3\xa9 1\n" + happened(42)[7:]), stream(happened(43)), SILENT)
    api = Api(fake.url)
    found = lines(api, ("v1", "events"), "", lambda _: None, pause=lambda _: None)
    assert [next(found)["operation_id"] for _ in range(3)] == [OPERATION] * 3
    api.close()
    assert [asked.headers.get("last-event-id") for asked in fake.asked] == [None, "41"]
