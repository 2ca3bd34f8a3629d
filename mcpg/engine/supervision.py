"""
The recovery machine at work: a managed gateway whose process ended by itself is brought back, and left alone once it is
seen to end over and over.

Called by the loop for every end that is seen and for what is found down at the start (`look_after`, `sweep`), and while it
drives a recovery (`restart`, `look`, `late`). The rules:

* Every way to a recovery ends in one transaction that occupies the gateway, so two observers make one. Where an operation
  runs, ends belong to it; orphans, and gateways of nobody's provisioner, are not brought back.
* The first start is made at once, the following after 1, 2, 4, … s. All counts are derived from the journal.
* An end counts until the gateway has been up for ten soak times in one go: one that ends a moment after it was recovered
  goes on counting where it was. So a gateway that dies every 70 s is braked like one that dies at once.
* Recovered is who runs and answers at the end of the watch (`_unanswering`); what runs and does not answer counts as ended.
* A recovery that somebody cancelled leaves the gateway down: the engine starts nothing of it until it is published, or
  that recovery is retried (`anew`). What is only being watched serves: a cancel ends the watch, and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from typing import Any

from mcpg.engine import rollcall, rolling
from mcpg.engine.accept import birth_of, body_hash, new_operation, scope_of
from mcpg.engine.core import Core
from mcpg.engine.effects import ended, failure
from mcpg.engine.operation import Operation, Outcome
from mcpg.engine.ports import Exited
from mcpg.errors import Refused, TemporaryError, Unavailable
from mcpg.machines import recovery
from mcpg.machines.recovery import Event, State
from mcpg.store import reads, writes
from mcpg.store.clock import short_id
from mcpg.store.journal import Fire, Line

log = logging.getLogger("mcpg.engine")

KIND = "recover"
REMEMBERED_SOAKS = 10  # times the soak that a gateway must be up for its earlier ends to be forgotten
TRIES = 1000  # to write a recovery down while the database is away: half a minute each, after the first few
RETRY_CAP_S = 30.0
_COUNTED = frozenset({Event.ENDED.value, Event.FAIL.value, Event.DEADLINE.value})

Row = dict[str, Any]


# ---- beginning one


async def sweep(engine: Core) -> None:
    """Look after every managed gateway on which no operation runs: what ended while nobody watched is down now."""
    if engine.provisioner is None or not engine.provisioner.observes:
        return
    for instance_id in await reads.unattended(engine.db):
        await look_after(engine, instance_id)


async def look_after(engine: Core, instance_id: str) -> None:
    """Begin a recovery of the gateway if one is due; asked as often as anybody likes."""
    for trouble in range(TRIES):
        try:
            await _begin(engine, instance_id)
        except Unavailable as exc:
            log.warning("a recovery of %s is not written down yet: %s", instance_id, exc.cause or exc.what)
            await asyncio.sleep(min(RETRY_CAP_S, 0.25 * 2**trouble))
        except Refused as exc:  # an operation began on it a moment earlier: ends belong to that one
            log.debug("no recovery of %s: %s", instance_id, exc.what)
            return
        else:
            return


async def anew(engine: Core, row: Row, *, actor: str, words: str = "") -> Operation:
    """
    The recovery *row*, which was cancelled, once more; *words* say why. Raises Refused where nothing is down, and what
    `_begin` raises.
    """
    op = await _begin(engine, row["instance_id"], actor, retry_of=row["id"], asked=words)
    if op is None:
        raise Refused(
            f"operation {row['id']} ({row['kind']} {row['name']}) cannot be retried: it is {row['state']}",
            cause=f"{row['name']} needs no recovery: every replica of it runs, or another operation is on it",
            hint=f"mcpg-ctl instance show {row['instance_id']}",
            operation_id=row["id"],
            state=row["state"],
            allowed=[],
        )
    return op


async def _begin(
    engine: Core, instance_id: str, actor: str = "engine", retry_of: str | None = None, asked: str = ""
) -> Operation | None:
    """Write a recovery down if one is due: None otherwise. Raises Busy when an operation began a moment earlier."""
    row = await reads.find_instance(engine.db, instance_id)
    if row is None or row["deleted_at"] is not None:
        engine.exits.pop(instance_id, None)
        return None
    down = await _ours_to_start(engine, row)
    if not down:
        return None
    last = await reads.last_operation(engine.db, instance_id)
    if retry_of is None and await is_left_down(engine, last):
        return None
    is_stranded = down <= engine.stranded.get(instance_id, frozenset())
    ends = 0 if is_stranded else 1 + (await _remembered(engine, last) if retry_of is None else 0)
    why = f"replica {min(down)} dials a control plane that is gone" if is_stranded else _why(engine, row, down)
    operation_id, scope, name = short_id("op-"), scope_of(row), row["name"] or row["instance_uid"]
    digest = body_hash(scope, KIND, {"operation": operation_id})  # like no request
    op = new_operation(
        operation_id, recovery.MACHINE.name, KIND, scope, name, row["id"], row["spec"], None, actor, digest
    )
    op.cluster_id = row["cluster_id"]
    data = {"ends": ends, "replicas": sorted(down)}
    facts = recovery.Seen(ends=ends, replicas=row["spec"]["replicas"])
    words, more = _told(engine, op, ends, why)
    paused = {"paused_in": op.state, "error": words, "code": more["code"]} if recovery.crash_loop(facts) else {}
    await engine.db.writer.submit(
        [
            birth_of(op, None, retry_of=retry_of, reason=f"{why}; {asked}" if asked else why, data=data),
            writes.occupy_instance(row["id"], op.id, name),
            Fire(
                recovery.MACHINE, op.id, Event.ACCEPT, actor, facts=facts, reason=words, data=more,
                sets=paused, within_s=_within_s(ends), claim=engine.leases.claim,
            ),
        ]
    )  # fmt: skip
    return op


async def is_left_down(engine: Core, last: Row | None) -> bool:
    """Whether *last*, the newest operation of a gateway, is a recovery that was cancelled before the gateway served."""
    if not _was(last, State.CANCELLED):
        return False
    assert last is not None  # noqa: S101 - it was
    lines = await reads.history(engine.db, last["id"])
    return lines[-1].source != State.WATCHING.value


def _was(last: Row | None, state: State) -> bool:
    return last is not None and (last["machine"], last["state"]) == (recovery.MACHINE.name, state.value)


async def down(engine: Core, instance_id: str) -> frozenset[int]:
    """The replicas of a gateway that should run and do not, as far as this control plane can see; none for one that is gone."""
    row = await reads.find_instance(engine.db, instance_id)
    if row is None or engine.provisioner is None or not engine.provisioner.observes:
        return frozenset()
    return await _down(engine, row)


async def is_needed(engine: Core, instance_id: str) -> bool:
    """Whether a recovery that is asked for now would begin: `anew` refuses it otherwise."""
    row = await reads.find_instance(engine.db, instance_id)
    return row is not None and row["deleted_at"] is None and bool(await _ours_to_start(engine, row))


async def _ours_to_start(engine: Core, row: Row) -> frozenset[int]:
    """The replicas that a recovery would start now: none where nobody observes, it is nobody's, or an operation is on it."""
    provisioner = engine.provisioner
    if provisioner is None or not provisioner.observes or not row["managed"]:
        return frozenset()
    if row["orphaned_at"] is not None or row["operation_id"] is not None:
        return frozenset()
    return await _down(engine, row)


async def _down(engine: Core, row: Row) -> frozenset[int]:
    """
    The replicas that should run and do not; where all run, one that nobody can reach. Of what the provisioner does not
    know, those that were seen to end.
    """
    assert engine.provisioner is not None  # noqa: S101 - the caller looked
    wanted = frozenset(range(1, row["spec"]["replicas"] + 1))
    running = await engine.provisioner.alive(row["id"])
    if running is not None:
        stranded = sorted(wanted & running & engine.stranded.get(row["id"], frozenset()))
        return wanted - running or frozenset(stranded[:1])
    return wanted & frozenset(engine.exits.get(row["id"], ()))


def _why(engine: Core, row: Row, down: frozenset[int]) -> str:
    exits = engine.exits.get(row["id"], {})
    number = min((n for n in down if n in exits), default=min(down))
    return _end(number, exits.get(number))


def _end(number: int, exited: Exited | None) -> str:
    if exited is None:
        return f"replica {number} does not run"
    return f"replica {number} ({exited.process}) ended, {exited}"


async def _remembered(engine: Core, last: Row | None) -> int:
    """The ends of a recovery that ended well only a moment ago, or whose watch somebody ended: they still count."""
    if last is None or not (_was(last, State.RECOVERED) or _was(last, State.CANCELLED)):
        return 0
    if engine.clock() - (last["finished_at"] or 0) > REMEMBERED_SOAKS * soak_s(engine) * 1e6:
        return 0
    return ends_of(await reads.history(engine.db, last["id"]))


# ---- counts and pauses


def ends_of(lines: Sequence[Line]) -> int:
    """How often it ended or did not come up: from its first line, and afresh from each resume."""
    ends = 0
    for line in lines:
        if line.event == Event.REQUEST.value:
            ends = int(line.data.get("ends", 1))
        elif line.event == Event.RESUME.value:
            ends = 0
        elif line.event in _COUNTED:
            ends += 1
    return ends


def pause_s(ends: int) -> float:
    """Seconds before the next start: none after the first end, then 1, 2, 4, …, jittered, at most a minute."""
    if ends <= 1:
        return 0.0
    return min(recovery.LONGEST_PAUSE_S, 2.0 ** min(ends - 2, 30) * random.uniform(0.75, 1.25))  # noqa: S311


def _within_s(ends: int) -> float | None:
    """How long the state may take that an end leads to: its pause; what is braked waits for an operator, for ever."""
    return None if recovery.crash_loop(recovery.Seen(ends=ends)) else pause_s(ends)


def soak_s(engine: Core) -> float:
    return engine.timeout(recovery.MACHINE, State.WATCHING.value) or recovery.SOAK_S


def _told(engine: Core, op: Operation, ends: int, why: str) -> tuple[str, dict[str, Any]]:
    """Words and data of a line that counts an end."""
    if not recovery.crash_loop(recovery.Seen(ends=ends)):
        return why, {"ends": ends}
    up_s = soak_s(engine) * REMEMBERED_SOAKS
    up = f"{up_s / 60:g} min" if up_s >= 60 else f"{up_s:g} s"
    words = f"it ended {ends} times (an end counts until it is up for {up} in one go); the last: {why}"
    hint = f"mcpg-ctl operation resume {op.id}      or publish {op.name} with a config that keeps it up, or delete it"
    return words, {"ends": ends, "code": "gateway_exited", "hint": hint}


async def _again(engine: Core, op: Operation, event: Event, why: str, data: dict[str, Any]) -> Outcome:
    """It ended, or did not come up, once more: another pause, or the brake."""
    ends = ends_of(await reads.history(engine.db, op.id)) + 1
    facts = recovery.Seen(ends=ends, replicas=op.spec["replicas"])
    words, more = _told(engine, op, ends, why)
    return Outcome(event, facts=facts, reason=words, data=data | more, within_s=_within_s(ends))


# ---- the work and the waits of a recovery


async def restart(engine: Core, op: Operation) -> Outcome:
    """Start what is missing, each replica with what is assigned to it. Every start of a recovery has a key of its own."""
    lines = await reads.history(engine.db, op.id)
    here = State.RESTARTING.value
    number = sum(line.dest == here and line.source != here for line in lines)
    engine.exits.pop(op.instance_id, None)  # ends before this start say nothing about it
    try:
        lost = engine.adrift(op.instance_id)  # they serve, though nobody can reach them: not more than one is touched
        only = frozenset(range(1, op.spec["replicas"] + 1)) - lost | {min(lost)} if lost else None
        placed, _ = await rolling.converge(engine, op, op.spec["replicas"], f"{op.id}-{number}", only=only, stops=False)
    except (TemporaryError, Unavailable):
        raise
    except Exception as exc:  # noqa: BLE001 - whatever it was: it did not start, and that counts
        why, data = failure(op, exc)
        return await _again(engine, op, Event.FAIL, why, data)
    started = [p for p in placed if p.started]
    words = [f"replica {p.replica}: process {p.pid} started" for p in started] or ["all run already"]
    return Outcome(
        Event.APPLIED,
        reason=", ".join(words),
        data={"replicas": [p.replica for p in started], "pids": [p.pid for p in placed]},
        also=(writes.set_endpoints(op.instance_id, [e for p in placed for e in p.endpoints]),),
    )


async def look(engine: Core, op: Operation, looks: int) -> tuple[Outcome | None, float | None, str]:
    """What the state it rests in waits for: an outcome, or when to look again (seconds), and what was seen."""
    if op.state == State.WAITING.value:
        return None, None, "its pause"
    for number, exited in (await engine.ended(op.instance_id)).items():
        if number <= op.spec["replicas"]:
            data = {"replica": number, "pid": exited.pid, "words": exited.words}
            return await _again(engine, op, Event.ENDED, _end(number, exited), data), None, ""
    if op.state == State.WATCHING.value:
        missing = None if looks else await _missing(engine, op)  # it may have ended while no control plane ran
        return missing, None, "it is up"
    everyone = frozenset(range(1, op.spec["replicas"] + 1))
    now = await rollcall.call(engine, op.instance_id, everyone)
    if everyone <= now.serving:
        facts = await seen(engine, op, now)
        words = f"{len(everyone)} of {len(everyone)} serve ({now.answers[0].detail})"
        return Outcome(Event.CONFIRMED, facts=facts, reason=words), None, ""
    late = min(everyone - now.serving)
    again = rollcall.PROBE_AGAIN_S[min(looks, len(rollcall.PROBE_AGAIN_S) - 1)] if everyone <= now.active else None
    return None, again, f"replica {late} {now.words(late)}"


async def late(engine: Core, op: Operation, summary: str) -> Outcome | None:
    """What the passing of the state's time means; None where the table's own words will do."""
    if op.state == State.WAITING.value:
        return Outcome(Event.DUE, reason="its pause is over")
    if op.state == State.CONFIRMING.value:
        return await _again(engine, op, Event.DEADLINE, f"it did not come up: {summary}", {"seen": summary})
    if op.state == State.WATCHING.value:
        gone = await _missing(engine, op) or await _unanswering(engine, op)
        if gone is not None:
            return gone
        ends = ends_of(await reads.history(engine.db, op.id))
        return Outcome(
            Event.HELD,
            facts=recovery.Seen(ends=ends, replicas=op.spec["replicas"]),
            reason=f"it stayed up for {soak_s(engine):g} s, and answers",
            sets=ended(engine),
            also=(writes.end_operation(op.instance_id),),
        )
    return None


async def _missing(engine: Core, op: Operation) -> Outcome | None:
    assert engine.provisioner is not None  # noqa: S101 - it started them
    running = await engine.provisioner.alive(op.instance_id)
    missing = frozenset(range(1, op.spec["replicas"] + 1)) - (running or frozenset())
    if not missing:
        return None
    number = min(missing)
    return await _again(engine, op, Event.ENDED, _end(number, None), {"replica": number})


async def _unanswering(engine: Core, op: Operation) -> Outcome | None:
    """That it runs is no evidence that it serves: it is asked, and not judged by one answer that fails."""
    assert engine.provisioner is not None  # noqa: S101 - it started them
    everyone, number, words = range(1, op.spec["replicas"] + 1), 0, ""
    for pause in (0.0, *rollcall.PROBE_AGAIN_S):
        await asyncio.sleep(pause)
        details = {a.replica: "" if a.ok else a.detail for a in await engine.provisioner.probe(op.instance_id)}
        number = next((n for n in everyone if details.get(n, "not probed")), 0)
        if not number:
            return None
        words = f"replica {number} runs and does not serve: {details.get(number, 'not probed')}"
    return await _again(engine, op, Event.ENDED, words, {"replica": number})


async def seen(engine: Core, op: Operation, now: rollcall.Rollcall) -> recovery.Seen:
    """The facts of the guards."""
    everyone = frozenset(range(1, op.spec["replicas"] + 1))
    return recovery.Seen(
        ends=ends_of(await reads.history(engine.db, op.id)), replicas=len(everyone), enrolled=len(now.online & everyone),
        active=len(now.active & everyone), answering=len(now.answering & everyone),
    )  # fmt: skip
