"""An operation is followed to its end whatever happens to the connection."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest

from mcpg import errors
from mcpg.cli.client import Api, Stream
from mcpg.cli.follow import Following
from mcpg.cli.ladder import Event

from .fake import (
    GATEWAYS,
    HAPPY,
    OPERATION,
    SILENT,
    UID,
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

EVENTS = f"/v1/orgs/acme/operations/{OPERATION}/events"
SHOWN = f"/v1/orgs/acme/operations/{OPERATION}"


class Seen:
    """A ladder that keeps what it is shown."""

    def __init__(self) -> None:
        self.phases: list[tuple[int, str]] = []
        self.notes: list[str] = []

    def begin(self, operation_id: str) -> None:
        self.notes.append(f"begin {operation_id}")

    def show(self, event: Event) -> None:
        self.phases.append((event["seq"], event["phase"]))

    def note(self, text: str) -> None:
        self.notes.append(text.partition(":")[0])

    def close(self) -> None: ...


class Case:
    """One operation followed against the fake, with pauses that are only counted."""

    def __init__(self, fake: Fake) -> None:
        self.fake = fake
        self.api = Api(fake.url)
        self.seen = Seen()
        self.pauses: list[float] = []
        where = ("v1", "orgs", "acme", "operations")
        self.following = Following(self.api, where, self.seen, pause=self.pauses.append)

    def first(self) -> AbstractContextManager[Stream]:
        segments = GATEWAYS.strip("/").split("/")
        return self.api.stream("POST", *segments, body={"name": "edge-1"}, headers={"idempotency-key": "k"})

    def run(self) -> Event:
        return self.following.to_the_end(self.first)


@pytest.fixture
def case(fake: Fake) -> Iterator[Case]:
    case = Case(fake)
    yield case
    case.api.close()


ALL = [(1, "allocating"), (2, "applying"), (3, "ready")]


@pytest.mark.parametrize("then", ["end", "cut"])
@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_stream_that_stops_early_is_resumed_after_the_last_event(case: Case, then: str, count: int) -> None:
    """Also one that ends in good order: without a final event that proves nothing."""
    case.fake.says("POST", GATEWAYS, stream(*HAPPY[:count], then=then))
    case.fake.says("GET", EVENTS, stream(*HAPPY[count:], end(3, "ready", ok=True)))
    final = case.run()
    assert (final["phase"], case.seen.phases) == ("ready", ALL)
    assert [asked.headers.get("last-event-id") for asked in case.fake.asked] == [None, str(count)]
    assert case.seen.notes == [f"begin {OPERATION}", f"connection lost, resuming after event {count}"]


def test_an_event_that_was_cut_in_the_middle_is_not_believed(case: Case) -> None:
    case.fake.says("POST", GATEWAYS, stream(HAPPY[0], HAPPY[2][:-1], then="cut"))
    case.fake.says("GET", EVENTS, stream(*HAPPY[1:]))
    assert (case.run()["seq"], case.seen.phases) == (3, ALL)


def test_an_event_that_comes_twice_is_shown_once(case: Case) -> None:
    case.fake.says("POST", GATEWAYS, stream(HAPPY[0], HAPPY[1], then="cut"))
    case.fake.says("GET", EVENTS, stream(*HAPPY))
    case.run()
    assert case.seen.phases == ALL


def test_keep_alives_and_strange_events_are_passed_over(case: Case) -> None:
    noise = (b": keep-alive\n\n", b"event: ping\ndata: {}\n\n", b"data: not json\n\n", b"event: x\ndata: [1]\n\n")
    case.fake.says("POST", GATEWAYS, stream(noise[0], HAPPY[0], *noise, HAPPY[1], noise[0], HAPPY[2]))
    case.run()
    assert (case.seen.phases, len(case.fake.asked)) == (ALL, 1)


def test_a_resumed_stream_that_has_only_its_end_left_says_how_it_ended(case: Case) -> None:
    case.fake.says("POST", GATEWAYS, stream(HAPPY[0], then="cut"))
    case.fake.says("GET", EVENTS, stream(end(3, "failed", ok=False, code="no_capacity", message="full")))
    final = case.run()
    assert {key: final[key] for key in ("phase", "code", "message", "seq")} == {
        "phase": "failed",
        "code": "no_capacity",
        "message": "full",
        "seq": 3,
    }
    assert case.seen.phases == [(1, "allocating")]


def test_an_end_that_says_nothing_new_still_ends_it(case: Case) -> None:
    """The stream was cut just after the pause: what is resumed has no event left, only its end."""
    case.fake.says("POST", GATEWAYS, stream(step(1, "paused", message="tried 5 times"), then="cut"))
    case.fake.says("GET", EVENTS, stream(end(1, "paused", ok=False)))
    final = case.run()
    assert (final["phase"], final["message"], case.seen.phases) == ("paused", "tried 5 times", [(1, "paused")])


def test_waiting_grows_with_each_failure_and_starts_again_after_progress(case: Case) -> None:
    case.fake.says("POST", GATEWAYS, stream(then="cut"))
    case.fake.says("GET", EVENTS, stream(then="cut"), stream(HAPPY[0], then="cut"), stream(*HAPPY[1:]))
    case.run()
    assert case.pauses == [0.1, 0.4, 0.1]


BROKEN = [
    stream(then="cut"),
    SILENT,
    refusal(errors.Unavailable("stopping")),
    Answer(b"<h1>Bad Gateway", 502, "text/html"),
]


@pytest.mark.parametrize("broken", BROKEN, ids=["cut", "silent", "503", "proxy"])
def test_a_stream_that_cannot_be_resumed_is_replaced_by_asking(case: Case, broken: Answer) -> None:
    transition: dict[str, Any] = {"seq": 2, "at": "", "dest": "applying", "phase": "applying", "event": "reserved"}
    running = operation(running=True, history=[transition], final_phase="applying")
    case.fake.says("POST", GATEWAYS, stream(HAPPY[0], then="cut"))
    case.fake.says("GET", EVENTS, broken)
    case.fake.says("GET", SHOWN, data(running), data(operation(error="")))
    final = case.run()
    expected = ("ready", UID, [(1, "allocating"), (2, "applying")])
    assert (final["phase"], final["instance_uid"], case.seen.phases) == expected
    assert case.pauses == [0.1, 0.4, 1.0, 2.0, 4.0, 1.0]
    assert case.seen.notes[-1] == "the stream cannot be resumed, asking once a second"


def test_after_a_silence_the_stream_is_tried_again(case: Case) -> None:
    """A control plane that was restarted answers again: a stream shows each event as it happens, polling does not."""
    case.fake.says("POST", GATEWAYS, stream(HAPPY[0], then="cut"))
    case.fake.says("GET", EVENTS, *([SILENT] * 5), stream(*HAPPY))
    case.fake.says("GET", SHOWN, SILENT, SILENT, data(operation(running=True, history=[], final_phase="applying")))
    final = case.run()
    assert (final["phase"], case.seen.phases, case.pauses) == ("ready", ALL, [0.1, 0.4, 1.0, 2.0, 4.0, 2.0, 4.0])
    assert case.seen.notes[-1].startswith("no control plane answers")


def test_a_pause_that_was_cut_off_and_ended_is_not_the_end(case: Case) -> None:
    """Only a stream that ends at the pause means that it lasts; here an operator had resumed it meanwhile."""
    case.fake.says("POST", GATEWAYS, stream(step(1, "applying"), then="cut"))
    case.fake.says("GET", EVENTS, stream(step(2, "paused"), step(3, "applying"), step(4, "ready")))
    assert case.run()["phase"] == "ready"


def test_asking_also_finds_a_pause(case: Case) -> None:
    case.fake.says("POST", GATEWAYS, stream(step(1, "applying"), then="cut"))
    case.fake.says("GET", EVENTS, SILENT)
    case.fake.says("GET", SHOWN, data(operation(running=True, final_phase="paused", state="paused")))
    assert case.run()["phase"] == "paused"


def test_a_control_plane_that_is_gone_for_good_is_given_up(case: Case) -> None:
    """Bounded, exit 6, and it says where to look: the operation goes on."""
    case.fake.says("POST", GATEWAYS, stream(HAPPY[0], then="cut"))
    case.fake.says("GET", EVENTS, SILENT)
    case.fake.says("GET", SHOWN, SILENT)
    with pytest.raises(errors.Unreachable, match=f"lost sight of operation {OPERATION} after event 1") as caught:
        case.run()
    assert caught.value.details == {"operation_id": OPERATION, "seq": 1}
    assert caught.value.hint == f"mcpg-ctl operation attach {OPERATION}"
    assert 300 < sum(case.pauses) < 320  # seconds: a host that reboots is back by then


def test_a_refusal_while_resuming_is_final(case: Case) -> None:
    case.fake.says("POST", GATEWAYS, stream(HAPPY[0], then="cut"))
    case.fake.says("GET", EVENTS, refusal(errors.NotFound("no such operation")))
    with pytest.raises(errors.McpgError, match="no such operation"):
        case.run()
    assert len(case.pauses) == 1


def test_a_request_without_an_answer_is_sent_again_with_the_same_key(case: Case) -> None:
    case.fake.says("POST", GATEWAYS, SILENT, SILENT, stream(*HAPPY))
    case.run()
    assert [asked.headers["idempotency-key"] for asked in case.fake.asked] == ["k", "k", "k"]


def test_a_request_that_never_gets_an_answer_is_given_up(case: Case) -> None:
    case.fake.says("POST", GATEWAYS, SILENT)
    with pytest.raises(errors.Unreachable, match="took the request and closed the connection"):
        case.run()
    assert (len(case.fake.asked), sum(case.pauses)) == (11, 32.5)


def test_a_line_without_news_is_not_shown(case: Case) -> None:
    """The first stream of a ladder leaves such lines out, a resumed one has them: both must look alike."""
    case.fake.says("POST", GATEWAYS, stream(HAPPY[0], then="cut"))
    quiet = step(2, "allocating", state="allocating")
    case.fake.says("GET", EVENTS, stream(quiet, step(3, "applying"), step(4, "applying"), step(5, "ready")))
    case.run()
    assert case.seen.phases == [(1, "allocating"), (3, "applying"), (5, "ready")]


def test_without_waiting_it_is_sent_again_as_well(case: Case) -> None:
    case.fake.says("POST", GATEWAYS, SILENT, stream(HAPPY[0], then="hang"))
    assert (case.following.accepted(case.first), case.pauses) == (OPERATION, [0.1])


def test_without_waiting_silence_is_given_up(case: Case) -> None:
    case.fake.says("POST", GATEWAYS, SILENT)
    with pytest.raises(errors.Unreachable):
        case.following.accepted(case.first)
    assert len(case.fake.asked) == 6


def test_the_endpoints_are_asked_for_when_the_event_that_names_them_was_lost(acme: Ctl, fake: Fake) -> None:
    fake.says("POST", GATEWAYS, stream(step(1, "allocating"), then="cut"))
    fake.says("GET", EVENTS, stream(end(3, "ready", ok=True)))
    fake.says("GET", SHOWN, data(operation()))
    instances = [{"instance_uid": "other"}, {"instance_uid": UID, "addressable": ["http://127.0.0.1:1/mcp"]}]
    fake.says("GET", "/v1/orgs/acme/instances", data(instances))
    ran = acme("provision", "create", "--name", "edge-1", "-o", "json")
    assert (ran.code, ran.json["endpoints"], ran.json["instance_uid"]) == (0, ["http://127.0.0.1:1/mcp"], UID)


def test_an_event_of_another_operation_is_passed_over(case: Case) -> None:
    """Nor does its end end this one."""
    others = (step(2, "ready", operation_id="op-other"), end(9, "failed", ok=False).replace(b"op-7f2e", b"op-other"))
    case.fake.says("POST", GATEWAYS, stream(HAPPY[0], *others, HAPPY[1], HAPPY[2]))
    assert (case.run()["phase"], case.seen.phases, len(case.fake.asked)) == ("ready", ALL, 1)


def test_an_attached_ladder_is_that_of_its_operation_alone(acme: Ctl, fake: Fake) -> None:
    fake.says("GET", f"/v1/operations/{OPERATION}", data(operation()))
    events = (HAPPY[0], step(2, "failed", operation_id="op-other"), *HAPPY[1:])
    fake.says("GET", f"/v1/operations/{OPERATION}/events", stream(*events, end(3, "ready", ok=True)))
    ran = acme("operation", "attach", OPERATION)
    assert (ran.code, "op-other" in ran.err) == (0, False)


def test_an_event_without_end_is_no_event(acme: Ctl, fake: Fake) -> None:
    """At once, without asking again: the same would come."""
    fake.says("POST", GATEWAYS, stream(HAPPY[0], b"data: " + b"x" * (5 * 1024 * 1024), then="hang"))
    ran = acme("provision", "create", "--name", "edge-1")
    assert (ran.code, ran.out, len(fake.asked)) == (6, "", 1)
    assert "is not a control plane\n" in ran.err
    assert "an event of more than 4 MiB" in ran.err


def test_events_that_are_long_together_are_read(case: Case) -> None:
    words = "x" * (1024 * 1024)
    steps = [step(seq, "applying", message=words) for seq in range(2, 9)]
    case.fake.says("POST", GATEWAYS, stream(HAPPY[0], *steps, step(9, "ready")))
    assert (case.run()["seq"], len(case.fake.asked)) == (9, 1)
