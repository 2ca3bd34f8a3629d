"""`operation resume|retry|cancel`: what is sent, asked and shown. What only a terminal shows: test_terminal.py."""

from __future__ import annotations

from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion

from mcpg.errors import Refused
from mcpg.wire.operations import CancelPlan, Undo

from .fake import HAPPY, OPERATION, Ctl, Fake, data, end, operation, refusal, step, stream
from .test_history import chained, steps

ONE = f"/v1/operations/{OPERATION}"
CANCELLED = operation(final_phase="cancelled", state="cancelled", code="cancelled", error="cancelled by local")
UNDONE = (
    step(1, "applying"),
    step(2, "rolling_back", reason="cancelled by local"),
    step(3, "cancelled", reason="cancelled by local", code="cancelled", data={"undone": ["removed"]}),
    end(3, "cancelled", ok=False),
)


def plan(**more: Any) -> dict[str, Any]:
    undo = [
        Undo(undo="remove", effect="apply", from_seq=3, words="stop edge-1 (2 replicas) and delete its files"),
        Undo(undo="release", effect="reserve", from_seq=2, words="release 2 places in us-1"),
    ]
    fields = {"operation_id": OPERATION, "kind": "create", "name": "edge-1", "now": "applying", "state": "compensating",
              "words": "what it did is taken back, newest first", "steps": undo}  # fmt: skip
    return CancelPlan(**fields | more).model_dump(mode="json")


@pytest.fixture
def told(fake: Fake) -> Fake:
    """A control plane with one operation that runs and can be cancelled."""
    fake.says("GET", f"{ONE}/cancel-plan", data(plan()))
    fake.says("POST", f"{ONE}/cancel", data(operation(running=True, state="compensating", final_phase="rolling_back")))
    fake.says("GET", f"{ONE}/events", stream(*UNDONE))
    fake.says("GET", ONE, data(CANCELLED))
    return fake


@pytest.mark.parametrize("output", ["table", "name", "json"])
def test_a_plan_is_shown_and_nothing_is_sent(acme: Ctl, told: Fake, snapshot: SnapshotAssertion, output: str) -> None:
    ran = acme("operation", "cancel", OPERATION, "--plan", "-o", output)
    assert (ran.code, ran.err, ran.out) == (0, "", snapshot)
    assert told.paths() == [f"GET {ONE}/cancel-plan"]


def test_a_plan_with_nothing_to_take_back(acme: Ctl, fake: Fake, snapshot: SnapshotAssertion) -> None:
    stays = plan(kind="delete", now="draining", state="cancelled", words="nothing was stopped yet", steps=[])
    fake.says("GET", f"{ONE}/cancel-plan", data(stays))
    assert acme("operation", "cancel", OPERATION, "--plan").out == snapshot


def test_a_cancel_ends_well_when_it_ends_cancelled(acme: Ctl, told: Fake, snapshot: SnapshotAssertion) -> None:
    ran = acme("operation", "cancel", OPERATION, "--yes", "--reason", "wrong config")
    assert (ran.code, ran.out, ran.err) == (0, snapshot, snapshot)
    assert told.asked[1].body == {"reason": "wrong config"}


def test_a_cancel_without_a_terminal_needs_yes(acme: Ctl, told: Fake) -> None:
    ran = acme("operation", "cancel", OPERATION, "-o", "json")
    assert (ran.code, ran.error["hint"]) == (2, f"mcpg-ctl operation cancel --output json --id {OPERATION} --yes")
    assert f"POST {ONE}/cancel" not in told.paths()


def test_a_cancel_may_be_left_to_itself(acme: Ctl, told: Fake) -> None:
    ran = acme("operation", "cancel", OPERATION, "--yes", "--no-wait", "-o", "json")
    assert (ran.code, ran.json) == (0, {"operation_id": OPERATION, "name": "edge-1", "phase": "accepted"})
    assert told.paths()[-1] == f"POST {ONE}/cancel"


@pytest.mark.parametrize("verb", ["resume", "retry"])
def test_what_goes_on_is_followed_to_its_end(acme: Ctl, fake: Fake, verb: str) -> None:
    fake.says("POST", f"{ONE}/{verb}", data(operation(running=True, state="applying", final_phase="applying")))
    fake.says("GET", f"{ONE}/events", stream(*HAPPY))
    fake.says("GET", ONE, data(operation()))
    ran = acme("operation", verb, OPERATION, "-o", "json")
    assert (ran.code, ran.json["phase"], fake.asked[0].body) == (0, "ready", {})


@pytest.mark.parametrize("verb", ["resume", "retry"])
def test_what_led_there_is_not_shown_again(acme: Ctl, fake: Fake, verb: str) -> None:
    """From the line that a person wrote: not from the attempts that failed, and not from the beginning."""
    lines = [line | {"event": "retry"} if line["seq"] in (3, 4) else line for line in steps()]
    lines[2] |= {"actor": "local", "event": verb}
    assert lines[3]["actor"] == "local"
    lines[3] |= {"actor": "engine"}
    fake.says("POST", f"{ONE}/{verb}", data(operation(running=True, state="applying", history=lines)))
    fake.says("GET", f"{ONE}/events", stream(step(3, "applying", message="resumed"), step(4, "ready")))
    fake.says("GET", ONE, data(operation()))
    ran = acme("operation", verb, OPERATION)
    assert (ran.code, fake.asked[1].headers["last-event-id"]) == (0, "2")


def test_a_retry_of_what_failed_follows_the_new_operation(acme: Ctl, fake: Fake) -> None:
    new = operation(id=OPERATION, running=True, retry_of="op-old1")
    fake.says("POST", "/v1/operations/op-old1/retry", data(new))
    fake.says("GET", f"{ONE}/events", stream(*HAPPY))
    fake.says("GET", ONE, data(operation()))
    ran = acme("operation", "retry", "op-old1")
    assert ran.code == 0
    assert ran.err.splitlines()[0] == f"operation {OPERATION} is the retry of op-old1"
    assert OPERATION in acme("operation", "show", OPERATION).out


@pytest.mark.parametrize("verb", ["resume", "retry", "cancel"])
def test_a_refusal_is_shown_as_the_server_says_it(acme: Ctl, fake: Fake, verb: str) -> None:
    no = Refused("operation op-7f2e (create edge-1) cannot be resumed: it is ready", cause="why", hint="what then")
    fake.says("POST", f"{ONE}/{verb}", refusal(no))
    fake.says("GET", f"{ONE}/cancel-plan", refusal(no))
    ran = acme("operation", verb, OPERATION, "-o", "json")
    assert (ran.code, ran.error["message"], ran.error["hint"]) == (5, no.what, "what then")


@pytest.mark.parametrize(
    ("kind", "hint"),
    [
        (
            "create",
            f"mcpg-ctl operation resume {OPERATION}      or take it back: mcpg-ctl operation cancel {OPERATION}",
        ),
        ("delete", f"mcpg-ctl operation resume {OPERATION}"),
    ],
)
def test_what_paused_says_how_to_go_on(acme: Ctl, fake: Fake, kind: str, hint: str) -> None:
    paused = operation(final_phase="paused", state="paused", running=True, kind=kind, paused_in="applying")
    fake.says("GET", ONE, data(paused))
    fake.says("GET", f"{ONE}/events", stream(step(1, "applying"), step(2, "paused", message="stuck")))
    ran = acme("operation", "attach", OPERATION, "-o", "json")
    assert (ran.code, ran.error["code"], ran.error["hint"]) == (8, "pending", hint)


def attempts(count: int) -> list[dict[str, Any]]:
    first, *rest = steps()
    made = [
        {**first, "seq": 1 + n, "source": "applying", "dest": "applying", "event": "retry", "attempt": n, "facts": {},
         "actor": "engine",
         "message": f"attempt {n + 1} in {2**n} s: not yet", "reason": f"attempt {n + 1} in {2**n} s: not yet"}
        for n in range(1, count + 1)
    ]  # fmt: skip
    return chained(OPERATION, [first, *made, *({**step, "seq": step["seq"] + count} for step in rest)])


@pytest.mark.parametrize("count", [1, 4, 5, 20])
def test_attempts_in_a_row_do_not_flood_a_history(
    acme: Ctl, fake: Fake, snapshot: SnapshotAssertion, count: int
) -> None:
    fake.says("GET", ONE, data(operation(history=attempts(count))))
    assert "\n".join(acme("operation", "show", OPERATION).out.splitlines()[5:]) == snapshot
    assert len(acme("operation", "show", OPERATION, "-o", "json").json["history"]) == len(attempts(count))


def test_a_put_off_and_a_pause_are_facts_of_an_operation(acme: Ctl, fake: Fake) -> None:
    more = {"running": True, "state": "applying", "attempt": 2, "next_attempt_at": "2126-01-01T00:00:00.000Z"}
    fake.says("GET", ONE, data(operation(history=steps(), **more)))
    assert "  attempt   3, in " in acme("operation", "show", OPERATION).out
    more = {"running": True, "state": "paused", "paused_in": "applying", "retry_of": "op-old1"}
    fake.says("GET", ONE, data(operation(history=steps(), **more)))
    out = acme("operation", "show", OPERATION).out
    assert "paused, in applying" in out
    assert "  retry of  op-old1" in out
