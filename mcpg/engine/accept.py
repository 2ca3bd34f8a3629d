"""
What every request for an operation has in common: it may be one that was made before, the gateway may be busy, and it is
written down in one transaction. Called by requests.py and orphans.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from mcpg.engine.core import Core, Scope
from mcpg.engine.operation import Operation
from mcpg.errors import Busy, Conflict, KeyReused, NameTaken, NoProvisioner, NoSuchMove
from mcpg.machines import provision, recovery
from mcpg.machines.table import NO_FACTS, Facts
from mcpg.store import reads, writes
from mcpg.store.clock import uuid7
from mcpg.store.journal import Birth, Fire, Step, canonical

Row = dict[str, Any]


class KeyRace(Conflict):
    """Another request with this Idempotency-Key was accepted a moment earlier."""


async def first_or_same(attempt: Callable[[], Awaitable[Operation]]) -> Operation:
    """*attempt*, once more when another request came first: it may have been this very one, arriving twice."""
    for _ in range(4):
        try:
            return await attempt()
        except (Conflict, Busy, NameTaken, NoSuchMove) as exc:  # the last: a recovery that ended a moment earlier
            race = exc
    raise race


def body_hash(scope: Scope, verb: str, body: dict[str, Any]) -> str:
    """What makes two requests the same request."""
    return hashlib.sha256(canonical([str(scope), verb, body]).encode()).hexdigest()


async def same_request(engine: Core, scope: Scope, digest: str, key: str | None) -> Operation | None:
    """The operation that a request with this key made before; KeyReused when that was another request."""
    if key is None:
        return None
    row = await reads.find_operation_by_key(engine.db, scope.org, key)
    if row is None:
        return None
    if row["body_hash"] != digest:
        raise KeyReused(
            "this Idempotency-Key was used for another request",
            cause=f"operation {row['id']} ({row['kind']} {row['name']}) has it",
            hint="send a new key with a new request",
            operation_id=row["id"],
        )
    return Operation.of(row)


async def running_on(engine: Core, scope: Scope, holder: Row, digest: str) -> Operation | None:
    """
    The running operation when it is this very request and still about to be done: one that is cancelled or taken back will
    not do it. Refuses when the name or the gateway is not free. A recovery is not in anybody's way: see `occupy`.
    """
    if (holder["org"], holder["workspace"], holder["environment"]) != (scope.org, scope.workspace, scope.environment):
        where = f"{scope.org}/…" if holder["org"] != scope.org else str(scope_of(holder))
        raise NameTaken(
            f"the name {holder['name']} is taken",
            cause="a gateway's name is unique across all orgs, for it is a DNS label"
            + (f"; this one lives in {where}" if holder["org"] == scope.org else ""),
            hint="choose another --name",
        )
    if holder["operation_id"] is None:
        return None
    row = await reads.find_operation(engine.db, holder["operation_id"])
    if row is None or row["machine"] == recovery.MACHINE.name:
        return None
    is_taken_back = bool(row["cancelled"]) or row["state"] == provision.State.COMPENSATING.value
    if row["body_hash"] == digest and not is_taken_back:
        return Operation.of(row)
    ways = f"wait for it: mcpg-ctl operation attach {row['id']}      then try again"
    if row["state"] == "paused":
        ways = f"mcpg-ctl operation resume {row['id']}      or: mcpg-ctl operation cancel {row['id']}"
    raise Busy(
        f"{holder['name']} is busy: operation {row['id']} ({row['kind']}) is {row['state']}",
        cause="what it did is being taken back" if is_taken_back else "one operation at a time runs on a gateway",
        hint=ways,
        operation_id=row["id"],
    )


async def join(engine: Core, op: Operation, key: str | None) -> Operation:
    """
    *op* runs and is what was asked for: this key is its too, also after its end. Raises KeyRace when it ended, or the key
    came to another operation, a moment earlier.

    A key is looked up after the gateway it is about was read: who sees there that the operation is over, then sees every
    key that joined it.
    """
    if key is not None:
        note = writes.join_key(uuid7(), op.org, key, op.id, engine.clock(), _raced)
        await engine.db.writer.execute(note)
    return op


def _raced() -> KeyRace:
    return KeyRace("this Idempotency-Key is in use", cause="the same request arrived twice at once")


def scope_of(row: Row) -> Scope:
    return Scope(row["org"], row["workspace"], row["environment"])


def needs_provisioner(engine: Core) -> None:
    """Raises NoProvisioner where nothing can be started, neither here nor by another replica."""
    if engine.provisioner is None and not engine.leases.others_run_gateways():
        raise NoProvisioner(
            "this control plane creates no gateways",
            cause="it runs with --provisioner none",
            hint="start it with --provisioner local",
        )


def new_operation(
    operation_id: str, machine: str, kind: str, scope: Scope, name: str, instance_id: str, spec: dict[str, Any],
    previous: dict[str, Any] | None, actor: str, digest: str,
) -> Operation:  # fmt: skip
    """One that is not written down yet."""
    return Operation(
        operation_id, machine, kind, scope.org, scope.workspace, scope.environment, name, instance_id, spec, previous,
        actor, digest, state="requested", version=0,
    )  # fmt: skip


async def accept(
    engine: Core, op: Operation, event: Any, also: list[Step], key: str | None, *, retry_of: str | None = None,
    reason: str = "", facts: Facts = NO_FACTS,
) -> Operation:  # fmt: skip
    """Write it down, with what it claims; the engine drives it from there. Raises what a companion refuses with, KeyRace."""
    # Nothing but the write: the engine hears the line and drives the row, whether or not our caller is still there.
    begin = Fire(op.table, op.id, event, op.actor, facts=facts, claim=engine.leases.claim)
    unit = [birth_of(op, key, retry_of=retry_of, reason=reason), *also, begin]
    engine.accepted[op.id] = replace(op)
    try:
        accepted = (await engine.db.writer.submit(unit))[-1]
    except BaseException:
        engine.accepted.pop(op.id, None)
        raise
    op.state, op.version = accepted.dest, accepted.seq
    return op


def birth_of(
    op: Operation, key: str | None, *, retry_of: str | None = None, reason: str = "", data: dict[str, Any] | None = None
) -> Birth:
    """Its row, and its first line: what is asked for, and *data* beside it."""
    columns = {
        "machine": op.machine, "kind": op.kind, "org": op.org, "workspace": op.workspace,
        "environment": op.environment, "name": op.name, "instance_id": op.instance_id, "spec": canonical(op.spec),
        "previous": None if op.previous is None else canonical(op.previous), "actor": op.actor,
        "idempotency_key": key, "body_hash": op.body_hash, "cluster_id": op.cluster_id,
        "retry_of": retry_of,
    }  # fmt: skip
    asked = {
        "kind": op.kind, "name": op.name, "instance_id": op.instance_id, "org": op.org, "workspace": op.workspace,
        "environment": op.environment, "spec": op.spec, "previous": op.previous,
    }  # fmt: skip
    asked |= {"retry_of": retry_of} if retry_of else {}
    return Birth(
        op.table, op.id, columns, op.actor, reason=reason, data=asked | (data or {}),
        refuse=_raced,
    )  # fmt: skip


async def occupy(engine: Core, row: Row, operation_id: str, actor: str) -> list[Step]:
    """
    Make *operation_id* the one that runs on the gateway *row*. A recovery under way gives way to it in the same
    transaction, whatever state it is in: who publishes or deletes a gateway does not wait for it to stop ending.
    """
    name = row["name"] or row["instance_uid"]
    steps: list[Step] = []
    held = await reads.find_operation(engine.db, row["operation_id"]) if row["operation_id"] else None
    if held is not None and held["machine"] == recovery.MACHINE.name:
        words = f"operation {operation_id} takes over"
        steps = [
            Fire(
                recovery.MACHINE, held["id"], recovery.Event.SUPERSEDE, actor, reason=words,
                data={"by": operation_id}, sets={"finished_at": engine.clock(), "error": "", "code": ""},
            ),
            writes.recovery_over(row["id"], held["id"]),
        ]  # fmt: skip
    return [*steps, writes.occupy_instance(row["id"], operation_id, name)]
