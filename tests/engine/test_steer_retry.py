"""What an operator tries again: what is put off, what failed, what paused; each once."""

from __future__ import annotations

import asyncio

from mcpg.errors import PermanentError, TemporaryError
from tests.conftest import Plane
from tests.engine.fakes import Scripted
from tests.engine.steering import Tomorrow, creating, refused


async def test_retry_of_what_is_put_off_tries_now(on: Plane, scripted: Scripted) -> None:
    on.engine.backoff = Tomorrow()
    scripted.problems = [TemporaryError("not yet")]
    create = await creating(on)

    async def put_off() -> bool:
        return (await on.operation(create.op))["attempt"] == 1

    await on.until(put_off, "the attempt is put off")
    await on.steer(create.op, "retry", "it is back")
    events = await create.task
    assert events[-1]["state"] == "ready"
    line = next(e for e in events if e["event"] == "retry" and e["actor"] == "local")
    assert line["message"] == "tried again now by local: it is back"


async def test_retry_while_it_is_at_work_is_refused(on: Plane, scripted: Scripted) -> None:
    scripted.hold = asyncio.Event()
    create = await creating(on)
    await scripted.entered.wait()
    told = await refused(on, create.op, "retry")
    assert told["details"]["allowed"] == ["cancel"]
    assert told["hint"] == f"mcpg-ctl operation cancel {create.op}"
    scripted.hold.set()
    assert (await create.task)[-1]["state"] == "ready"
    assert (await refused(on, create.op, "retry"))["detail"].startswith("it is over, and did not fail")


async def test_retry_of_a_create_that_failed_asks_for_the_very_same_anew(on: Plane, scripted: Scripted) -> None:
    scripted.problems = [PermanentError("no")]
    failed = (await on.publish("edge-1", replicas=2, config_toml="governance: {}"))[-1]["operation_id"]
    new = await on.steer(failed, "retry")
    assert (new["retry_of"], new["kind"], new["name"]) == (failed, "create", "edge-1")
    end = await on.reaches(new["id"], "ready")
    assert end["replicas"] == 2
    assert end["history"][0]["data"]["retry_of"] == failed
    [instance] = await on.instances()
    assert instance["replicas"] == 2
    version = await on.client.get(f"{on.gateways}/edge-1/config-versions/1")
    assert version.json()["raw_config"] == "governance: {}"
    told = await refused(on, failed, "retry")
    assert (told["code"], told["title"]) == ("name_taken", f"{failed} cannot be retried: the name edge-1 is taken")


async def test_the_reason_of_a_retry_stands_in_the_first_line_of_the_new_operation(
    on: Plane, scripted: Scripted
) -> None:
    scripted.problems = [PermanentError("no")]
    failed = (await on.publish("edge-1"))[-1]["operation_id"]
    new = await on.steer(failed, "retry", "the disk is back")
    assert (await on.operation(new["id"]))["history"][0]["reason"] == "asked for anew by local: the disk is back"


async def test_two_retries_of_one_operation_are_one_new_operation(on: Plane, scripted: Scripted) -> None:
    scripted.problems = [PermanentError("no")]
    failed = (await on.publish("edge-1"))[-1]["operation_id"]
    scripted.hold = asyncio.Event()
    answers = await asyncio.gather(*(on.steer(failed, "retry") for _ in range(4)))
    assert len({a["id"] for a in answers}) == 1
    scripted.hold.set()
    await on.reaches(answers[0]["id"], "ready")


async def test_retry_of_an_update_changes_only_what_it_was_to_change(on: Plane, scripted: Scripted) -> None:
    await on.publish("edge-1", config_toml="mcp: {}")
    scripted.problems = [PermanentError("no")]
    failed = (await on.publish("edge-1", replicas=2))[-1]["operation_id"]
    await on.publish("edge-1", config_toml="governance: {}", size="m")  # meanwhile somebody else changes more
    now = (await on.instances())[0]
    new = await on.steer(failed, "retry")
    await on.reaches(new["id"], "ready")
    [instance] = await on.instances()
    assert (new["kind"], instance["replicas"]) == ("update", 2)
    assert (instance["assigned_hash"], instance["size"]) == (now["assigned_hash"], "m")


async def test_retry_of_an_update_whose_gateway_is_gone_is_refused(on: Plane, scripted: Scripted) -> None:
    uid = (await on.publish("edge-1"))[-1]["coords"]["instance_uid"]
    scripted.problems = [PermanentError("no")]
    failed = (await on.publish("edge-1", replicas=2))[-1]["operation_id"]
    await on.delete(uid)
    told = await refused(on, failed, "retry")
    assert told["title"] == f"{failed} cannot be retried: the gateway it was to update is gone"
    await on.publish("edge-1")
    assert (await refused(on, failed, "retry"))["detail"] == "another gateway has its name"


async def test_retry_of_a_paused_one_is_a_resume(on: Plane, scripted: Scripted) -> None:
    scripted.problems = [PermanentError("no")]
    scripted.remove_problems = [PermanentError("it will not die")]
    op = (await on.publish("edge-1"))[-1]["operation_id"]
    assert (await on.steer(op, "retry"))["id"] == op
    assert (await on.reaches(op, "failed"))["error"] == "no", "the cause is why it failed, not that it was resumed"


async def test_a_busy_gateway_says_how_to_decide_on_what_paused(on: Plane, scripted: Scripted) -> None:
    scripted.problems = [PermanentError("no")]
    scripted.remove_problems = [PermanentError("it will not die")]
    op = (await on.publish("edge-1"))[-1]["operation_id"]
    answer = await on.client.post(on.gateways, json={"name": "edge-1", "replicas": 2})
    assert answer.json()["hint"] == f"mcpg-ctl operation resume {op}      or: mcpg-ctl operation cancel {op}"
