"""
What was seen, as the facts of a guard: an operation's `confirming` ends on evidence, never on hope.

Called by the loop whenever something may have changed; answers with the event to raise, or with when to look again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mcpg.engine import effects
from mcpg.engine.core import Core
from mcpg.engine.operation import Operation, Outcome
from mcpg.engine.ports import Answer
from mcpg.machines import enrolment, provision, teardown
from mcpg.store import reads, writes
from mcpg.store.journal import Fire

PROBE_AGAIN_S = (0.05, 0.1, 0.2, 0.5, 1.0)  # between two probes of an endpoint that does not answer yet


@dataclass(slots=True)
class Look:
    """One look. Without an outcome, `again_s` says when the next is due if nothing wakes us before (None: only then)."""

    outcome: Outcome | None = None
    again_s: float | None = None
    summary: str = ""
    seen: provision.Seen | None = None


@dataclass(slots=True)
class Memory:
    """What the last look of one operation found, so that only news is written down."""

    progress: tuple[int, int] = (0, 0)
    probes: int = 0
    trouble: bool = False  # a look failed, and was logged


async def look(engine: Core, op: Operation, memory: Memory) -> Look:
    if op.machine == teardown.MACHINE.name:
        return await _look_gone(engine, op)
    return await _look_serving(engine, op, memory)


async def _look_gone(engine: Core, op: Operation) -> Look:
    connected = engine.fleet.connected(op.instance_id)
    if connected:
        return Look(summary=f"{connected} agent stream(s) still open")
    return Look(await effects.gone(engine, op))


async def _look_serving(engine: Core, op: Operation, memory: Memory) -> Look:
    wanted, config_hash = op.spec["replicas"], op.spec["config_hash"]
    provisioner = engine.provisioner
    if provisioner is not None and not provisioner.observes:
        seen = provision.Seen(replicas=wanted, evidence=False)
        return Look(await _confirmed(engine, op, seen, "nothing to observe: the no-op provisioner", ()))

    ended = engine.exits.get(op.instance_id)
    if ended is not None:
        return Look(
            Outcome(
                provision.Event.FAIL,
                reason=f"replica {ended.replica} (pid {ended.pid}) ended, {ended}",
                data={"code": "gateway_exited", "replica": ended.replica, "pid": ended.pid, "words": ended.words},
            )
        )

    agents = [a for a in await reads.agents(engine.db, op.instance_id) if a["replica"] <= wanted]
    for a in agents:
        if a["rejected_hash"] == config_hash:
            return Look(await _rejected(engine, op, a))
    online = [a for a in agents if a["state"] == enrolment.State.ONLINE.value and engine.fleet.is_live(a["id"])]
    active = [a for a in online if a["active_hash"] == config_hash]
    summary = f"{len(online)} of {wanted} enrolled, config {config_hash[:6]} active on {len(active)}"
    answers: tuple[Answer, ...] = ()
    if len(active) == wanted and provisioner is not None:
        answers = await provisioner.probe(op.instance_id)
        summary += ", " + (answers[0].detail if answers else "nothing to probe")
    seen = provision.Seen(wanted, len(online), len(active), sum(a.ok for a in answers if a.replica <= wanted))
    if provision.all_replicas_serve(seen):
        return Look(await _confirmed(engine, op, seen, summary, answers))
    if (len(online), len(active)) > memory.progress:
        memory.progress = (len(online), len(active))
        if len(active) < wanted:  # what comes next is the confirmation: no line between
            return Look(Outcome(provision.Event.OBSERVED, facts=seen, reason=summary))
    again = None
    if len(active) == wanted:
        again = PROBE_AGAIN_S[min(memory.probes, len(PROBE_AGAIN_S) - 1)]
        memory.probes += 1
    return Look(again_s=again, summary=summary, seen=seen)


async def _rejected(engine: Core, op: Operation, agent: dict[str, Any]) -> Outcome:
    """The gateway's own words, and what is known beyond them: a nack says that a config is wrong, rarely where."""
    words, where = agent["config_error"], ""
    config = await reads.find_config(engine.db, op.instance_id, op.spec["config_version"])
    if config is not None and engine.provisioner is not None:
        where = await engine.provisioner.explain(config["rendered"])
    return Outcome(
        provision.Event.REJECTED,
        reason=f"replica {agent['replica']} refused config {op.spec['config_hash'][:6]}: {words}"
        + (f" ({where})" if where else ""),
        data={"code": "config_rejected", "replica": agent["replica"], "words": words, "explained": where},
    )


async def _confirmed(
    engine: Core, op: Operation, seen: provision.Seen, summary: str, answers: tuple[Answer, ...]
) -> Outcome:
    row = await reads.find_instance(engine.db, op.instance_id)
    if row is not None and engine.provisioner is not None and seen.evidence:
        config = await reads.find_config(engine.db, op.instance_id, op.spec["config_version"])
        if config is not None:
            await engine.provisioner.keep(op.instance_id, config["rendered"])
    surplus = tuple(
        Fire(
            enrolment.MACHINE, a["id"], enrolment.Event.REMOVED, "engine", reason=f"scaled down by {op.id}",
            sets={"reason": f"scaled down by {op.id}"},
        )
        for a in await reads.agents(engine.db, op.instance_id)
        if a["replica"] > op.spec["replicas"] and a["state"] != enrolment.State.DEPARTED.value
    )  # fmt: skip
    data: dict[str, Any] = {
        "instance_uid": op.instance_id,
        "endpoints": row["endpoints"] if row else [],
        "config_hash": op.spec["config_hash"],
        "probes": [{"replica": a.replica, "detail": a.detail, "ms": round(a.ms, 1)} for a in answers],
        **await effects.room_of(engine, op),
    }
    return Outcome(
        provision.Event.CONFIRMED,
        facts=seen,
        reason=summary + (f" in {answers[0].ms:.0f} ms" if answers else ""),
        data=data,
        sets=effects.ended(engine),
        also=(
            *surplus,
            *writes.settle(op.instance_id, effects.need_of(op.spec)),
            writes.mark_ready(op.instance_id, engine.clock()),
        ),
    )
