"""
The work of the operation machines, by the names their tables use. Each effect may run twice for one version: it then
finds what it did before. None of them moves a state: it answers with an Outcome, and the loop raises it. How what they did is
taken back: compensation.py.
"""

from __future__ import annotations

import shlex
from collections.abc import Awaitable, Callable
from typing import Any

from mcpg.engine import allocator, rolling
from mcpg.engine.core import Core
from mcpg.engine.operation import Operation, Outcome
from mcpg.engine.ports import Placed
from mcpg.errors import McpgError, PermanentError
from mcpg.machines import enrolment, provision, teardown
from mcpg.store import reads, writes
from mcpg.store.journal import Also, Fire

Effect = Callable[[Core, Operation], Awaitable[Outcome]]
Companions = tuple[Also | Fire, ...]  # what goes into the transaction of a move
P, T = provision.Event, teardown.Event
DEFAULT_TIER = "shared"  # of a gateway that asks for none


async def reserve(engine: Core, op: Operation) -> Outcome:
    """
    Choose a cluster and take room in it, in the transaction of the move; an update keeps its cluster, and what it gives
    back is given back once it is ready. An orphan is placed like a new one, and is none from then on.
    """
    need = need_of(op.spec)
    is_new = op.previous is None  # it holds nothing yet, and nobody has refused anything
    held = None if is_new else await reads.find_reservation(engine.db, op.instance_id)
    chosen, more = await choose(engine, held, op.spec, op.cluster_id)
    if isinstance(chosen, allocator.Refusal):
        held_in = chosen.reasons[0][0] if held else ""
        return _no_capacity(
            engine, op, chosen, room_hint(op.spec, chosen, held_in=held_in, is_pinned=bool(op.cluster_id))
        )
    after = chosen.gateways_used + more.places
    orphan: dict[str, Any] = {}
    if held is None and op.previous is not None:  # it exists and holds nothing: its cluster was taken away
        instance = await reads.find_instance(engine.db, op.instance_id) or {}
        orphan = {"orphan_of": instance["cluster_id"], "orphaned_at": instance["orphaned_at"]}
    serving = {} if op.previous is None else {"serving": await rolling.serving_now(engine, op)}
    rolling_from = op.previous["config_version"] if op.previous and rolling.changes_config(op) else None
    return Outcome(
        P.RESERVED,
        reason=f"{chosen.name} ({after} of {chosen.gateways_max} gateways)",
        data={
            "cluster": chosen.name, "cluster_id": chosen.id, "places": need.places, "used": after,
            "cpu_millicores": need.cpu_millicores, "memory_bytes": need.memory_bytes,
        } | orphan | serving,
        sets={"cluster_id": chosen.id},
        also=(
            *(writes.reserve(chosen.id, op.instance_id, op.id, more) if any(more) else ()),
            *((writes.adopt(op.instance_id),) if orphan else ()),
            writes.assign(
                op.instance_id, chosen.id, op.spec, op.spec["config_version"], op.spec["config_hash"], rolling_from
            ),
            *(() if is_new else (writes.forget_refusals(op.instance_id),)),
        ),
    )  # fmt: skip


def need_of(spec: dict[str, Any]) -> allocator.Need:
    """What a gateway of this spec takes, all replicas together."""
    replicas = spec["replicas"]
    return allocator.Need(replicas, replicas * spec["cpu_millicores"], replicas * spec["memory_bytes"])


async def choose(
    engine: Core, held: dict[str, Any] | None, spec: dict[str, Any], pinned: str | None = None
) -> tuple[allocator.Room | allocator.Refusal, allocator.Need]:
    """
    Where *spec* goes (as it is before), and what it takes beyond the reservation *held*; who holds room stays there.

    *pinned* is the id of the only cluster that will do.
    """
    need = need_of(spec)
    if held is None:
        only = (await engine.rooms.one(pinned)).name if pinned else ""
        found = await engine.rooms.place(allocator.Wish(need, spec["region"], spec["isolation_tier"], only))
        return found, need
    more = need.beyond(allocator.Need(held["places"], held["cpu_millicores"], held["memory_bytes"]))
    room = await engine.rooms.one(held["cluster_id"])
    why = allocator.why_no_more(room, more) if any(more) else ""
    return (allocator.Refusal(((room.name, why),)) if why else room), more


def room_hint(spec: dict[str, Any], refusal: allocator.Refusal, *, held_in: str = "", is_pinned: bool = False) -> str:
    """
    The way on for *spec* where no cluster takes it. Who holds room somewhere (*held_in*) stays there. A cluster that cannot
    be reached is mended first: more of them would not help.
    """
    if refusal.is_unreachable:
        return "what is wrong, and since when: mcpg-ctl cluster health, mcpg-ctl doctor; then ask again"
    if held_in:
        return f"ask for fewer replicas or a smaller --size; what there is: mcpg-ctl cluster show {held_in}"
    if is_pinned:
        return "leave out --cluster, and the allocator chooses; what there is: mcpg-ctl cluster list"
    words = f"--region {shlex.quote(spec['region'] or 'REGION')}"
    if spec["isolation_tier"] != DEFAULT_TIER:
        words += f" --isolation-tier {shlex.quote(spec['isolation_tier'])}"
    return f"mcpg-ctl cluster register --name NAME {words} --gateways-max N"


def _no_capacity(engine: Core, op: Operation, refusal: allocator.Refusal, hint: str) -> Outcome:
    wanted = [count(op.spec["replicas"], "replica"), f"size {op.spec['size']}"]
    wanted += [f"region {op.spec['region']}"] if op.spec["region"] else []
    wanted += [f"tier {op.spec['isolation_tier']}"] if op.spec["isolation_tier"] != DEFAULT_TIER else []
    error = f"no cluster can take {op.name}: {refusal}"
    return Outcome(
        P.NO_CAPACITY,
        reason=f"no cluster can take {op.name} ({', '.join(wanted)}): {refusal}",
        data={
            "code": "no_capacity", "clusters": [{"name": n, "reason": r} for n, r in refusal.reasons], "hint": hint,
            "error": error,
        },
        sets=ended(engine, error, "no_capacity"),
        also=not_created(engine, op),
    )  # fmt: skip


def count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def ended(engine: Core, error: str = "", code: str = "") -> dict[str, Any]:
    """The columns of an operation that is over."""
    return {"finished_at": engine.clock(), "error": error, "code": code}


def not_created(engine: Core, op: Operation) -> tuple[Also, ...]:
    """What a failed operation leaves of its instance: nothing of a create, the instance as it was of an update."""
    if op.previous is None:
        return (*writes.release(op.instance_id), writes.delete_instance(op.instance_id, engine.clock()))
    return (writes.end_operation(op.instance_id),)


async def apply(engine: Core, op: Operation) -> Outcome:
    """One step: start what is missing of what it touches, tell what runs. See rolling.steps_of."""
    step = rolling.step_of(op)
    for number in step.touches:
        engine.exits.get(op.instance_id, {}).pop(number, None)  # an end before this start says nothing about it
    only = None if op.previous is None else step.touches
    placed, told = await rolling.converge(engine, op, op.spec["replicas"], only=only, stops=step.stops)
    op.endpoints = [e for p in placed for e in p.endpoints]
    return Outcome(
        P.APPLIED,
        reason=_applied(op, step, placed, told),
        data={"replicas": sorted(step.touches), "pids": [p.pid for p in placed], "ports": [p.port for p in placed]},
        also=(writes.set_endpoints(op.instance_id, op.endpoints),),
    )


def _applied(op: Operation, step: rolling.Step, placed: tuple[Placed, ...], told: int) -> str:
    if step.stops and op.previous is not None:
        return f"{rolling.replicas(op.spec['replicas'] + 1, op.previous['replicas'])} stopped"
    touched = [p for p in placed if p.replica in step.touches]
    started = [str(p.pid) for p in touched if p.started and p.pid]
    parts = [f"process{'es' * (len(started) > 1)} {', '.join(started)} started"] if started else []
    parts += [f"{len(touched) - len(started)} running already"] if len(started) < len(touched) else []
    if rolling.is_one_of_several(op, step):
        parts = parts if started else []
        parts += [f"config {op.spec['config_hash'][:6]} sent"] if told else []
        return f"replica {step.rolled} of {op.spec['replicas']}: {', '.join(parts) or 'nothing to send'}"
    parts += [f"config sent to {told}"] if told else []
    return ", ".join(parts)


async def departures(engine: Core, op: Operation) -> tuple[Fire, ...]:
    """The last line of each agent of an instance that is no more."""
    return tuple(
        Fire(
            enrolment.MACHINE, a["id"], enrolment.Event.REMOVED, "engine", reason=f"removed by {op.id}",
            sets={"reason": f"removed by {op.id}"},
        )
        for a in await reads.agents(engine.db, op.instance_id)
        if a["state"] != enrolment.State.DEPARTED.value
    )  # fmt: skip


async def drain(engine: Core, op: Operation) -> Outcome:
    """Its endpoints leave the list, and its agents are told."""
    told = await engine.fleet.drain(op.instance_id)
    return Outcome(
        T.DRAINED,
        reason=f"endpoints hidden, {count(told, 'agent')} told",
        also=(writes.hide_endpoints(op.instance_id),),
    )


async def remove(engine: Core, op: Operation) -> Outcome:
    """Stop the replicas; a gateway that is already gone is a success. Of one that enrolled itself none is ours."""
    instance = await reads.find_instance(engine.db, op.instance_id)
    if instance is not None and not instance["managed"]:
        engine.fleet.cut(op.instance_id, "the gateway was deleted")
        return Outcome(T.REMOVED, reason="it enrolled itself and has departed: nothing to stop", data={"pids": []})
    if engine.provisioner is None:
        raise PermanentError("this control plane runs without a provisioner", cause="it runs with --provisioner none")
    removed = await engine.provisioner.remove(op.instance_id)
    engine.fleet.cut(op.instance_id, "the gateway was deleted")
    engine.exits.pop(op.instance_id, None)
    return Outcome(T.REMOVED, reason=removed.detail, data={"pids": list(removed.pids)})


async def gone(engine: Core, op: Operation) -> Outcome:
    """Everything is seen gone: the room is free, the name too, the credentials are worth nothing."""
    at = engine.clock()
    instance = await reads.find_instance(engine.db, op.instance_id)
    is_ours = instance is None or bool(instance["managed"])
    return Outcome(
        T.GONE,
        facts=teardown.Seen(connected=await engine.fleet.connected(op.instance_id)),
        reason="process gone, no agent connected, room released"
        if is_ours
        else "no agent connected, its credentials are worth nothing",
        data=await room_of(engine, op),
        sets=ended(engine),
        also=(
            *await departures(engine, op),
            *writes.release(op.instance_id),
            writes.revoke_tokens_of(op.instance_id, at),
            writes.delete_instance(op.instance_id, at),
        ),
    )


async def room_of(engine: Core, op: Operation) -> dict[str, Any]:
    """For the data of a line that changes whose room: rooms.py reads that cluster again."""
    held = await reads.find_reservation(engine.db, op.instance_id)
    return {"cluster_id": held["cluster_id"]} if held else {}


EFFECTS: dict[str, Effect] = {
    "reserve": reserve,
    "apply": apply,
    "drain": drain,
    "remove": remove,
}


def failure(op: Operation, exc: Exception) -> tuple[str, dict[str, Any]]:
    """An effect's exception as the reason and data of its event."""
    if isinstance(exc, McpgError):
        words = exc.what + (f": {exc.cause}" if exc.cause else "")
        return words, {"code": exc.code, "hint": exc.hint}
    return f"{type(exc).__name__}: {exc}", {"code": "failed", "effect_of": op.state}
