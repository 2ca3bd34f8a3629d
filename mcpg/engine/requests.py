"""
What people ask for, made into operations: publish (create or update) and delete.

Called by the API with slugs it has checked. One transaction writes the operation, its first two journal lines and what
it claims (the name, the instance), so that two requests at once cannot both be accepted. Refusals leave nothing behind.
"""

from __future__ import annotations

import asyncio
import shlex
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from mcpg.engine import effects
from mcpg.engine.accept import (
    accept,
    body_hash,
    first_or_same,
    join,
    needs_provisioner,
    new_operation,
    occupy,
    running_on,
    same_request,
    scope_of,
)
from mcpg.engine.allocator import NOTHING, Need, Refusal, Room
from mcpg.engine.config import DEFAULT_CONFIG, Rendered, render
from mcpg.engine.core import Core, Scope
from mcpg.engine.operation import Operation
from mcpg.errors import BadSpec, NameTaken, NoCapacity, NotFound, Refused
from mcpg.machines import enrolment, provision, recovery, teardown
from mcpg.store import reads, writes
from mcpg.store.clock import short_id, uuid7
from mcpg.store.journal import Fire, Step, canonical

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Publish:
    """A create or update as the API parsed it. None means: as it is, or the default."""

    name: str
    replicas: int | None = None
    size: str | None = None
    region: str | None = None
    isolation_tier: str | None = None
    custom_hostname: str | None = None
    image_tag: str | None = None
    config: str | None = None


@dataclass(frozen=True, slots=True)
class Anew:
    """An operation that is asked for once more: its id, what it was, of which instance, and why, "" for no reason."""

    operation_id: str
    kind: str
    instance_id: str
    words: str = ""

    def check(self, holder: Row | None) -> None:
        """Raises Refused when whoever has the name now is not who was meant: a create must not become an update."""
        if self.kind == "create" and holder is not None:
            raise NameTaken(
                f"{self.operation_id} cannot be retried: the name {holder['name']} is taken",
                cause=f"a gateway has it since, {holder['instance_uid']}",
                hint=f"mcpg-ctl instance show {holder['name']}",
            )
        if self.kind == "update" and (holder is None or holder["id"] != self.instance_id):
            raise Refused(
                f"{self.operation_id} cannot be retried: the gateway it was to update is gone",
                cause="its name is free" if holder is None else "another gateway has its name",
                hint="mcpg-ctl provision create --name NAME",
            )


_RENDERER = ThreadPoolExecutor(1, "render")  # of its own: huge configs wait for each other, and nothing waits for them


async def _rendered(raw: str) -> Rendered:
    """A huge config takes seconds."""
    return await asyncio.get_running_loop().run_in_executor(_RENDERER, render, raw)


@cache
def _default_config() -> Rendered:
    return render(DEFAULT_CONFIG)


async def publish(
    engine: Core, scope: Scope, wish: Publish, *, actor: str, key: str | None, again: Anew | None = None
) -> Operation:
    """
    Accept a create or update and hand it to the engine; or find the operation that already does exactly this. *again*: of
    which operation this is the retry.

    Raises BadConfig, BadSpec, NameTaken, Busy, KeyReused, NoProvisioner.
    """
    needs_provisioner(engine)
    config = None if wish.config is None else await _rendered(wish.config)
    body = {f: getattr(wish, f) for f in wish.__dataclass_fields__}
    digest = body_hash(scope, "publish", body)

    async def attempt() -> Operation:
        holder = await reads.find_live_name(engine.db, wish.name)
        same = await same_request(engine, scope, digest, key)
        if same is not None:
            return same
        running = None if holder is None else await running_on(engine, scope, holder, digest)
        if running is not None:
            return await join(engine, running, key)
        if again is not None:
            again.check(holder)
        if holder is None:
            return await _create(engine, scope, wish, config, digest, actor, key, again)
        return await _update(engine, scope, wish, holder, config, digest, actor, key, again)

    return await first_or_same(attempt)


async def _create(
    engine: Core, scope: Scope, wish: Publish, config: Rendered | None, digest: str, actor: str, key: str | None,
    again: Anew | None,
) -> Operation:  # fmt: skip
    raw = wish.config if wish.config is not None else DEFAULT_CONFIG
    config = config or _default_config()
    operation_id, instance_id, at = short_id("op-"), uuid7(), engine.clock()
    spec = _first_spec(engine, wish, config)
    instance = {
        "id": instance_id, "instance_uid": instance_id, "org": scope.org, "workspace": scope.workspace,
        "environment": scope.environment, "name": wish.name, "live_name": wish.name, "managed": 1,
        "discovered_via": "static", "spec": canonical(spec), "operation_id": operation_id, "created_at": at,
    }  # fmt: skip
    also: list[Step] = [
        writes.insert_instance(taken_hint="choose another --name", columns=instance),
        writes.insert_config(instance_id, 1, raw, config.raw_sha256, config.text, config.sha256, operation_id, at),
    ]
    op = new_operation(operation_id, "provision", "create", scope, wish.name, instance_id, spec, None, actor, digest)
    return await accept(
        engine, op, provision.Event.ACCEPT, also, key,
        retry_of=again.operation_id if again else None, reason=again.words if again else "",
    )  # fmt: skip


async def _update(
    engine: Core, scope: Scope, wish: Publish, holder: Row, config: Rendered | None, digest: str, actor: str,
    key: str | None, again: Anew | None,
) -> Operation:  # fmt: skip
    old: dict[str, Any] = holder["spec"]
    operation_id, at = short_id("op-"), engine.clock()
    spec = _next_spec(engine, wish, old)
    also = await occupy(engine, holder, operation_id, actor)
    if config is not None and wish.config is not None:
        versions = await reads.config_versions(engine.db, holder["id"])
        spec["config_version"] = versions[0]["version"] + 1 if versions else 1
        spec["config_hash"] = config.sha256
        also.append(
            writes.insert_config(
                holder["id"], spec["config_version"], wish.config, config.raw_sha256, config.text, config.sha256,
                operation_id, at,
            )
        )  # fmt: skip
    op = new_operation(operation_id, "provision", "update", scope, wish.name, holder["id"], spec, old, actor, digest)
    return await accept(
        engine, op, provision.Event.ACCEPT, also, key,
        retry_of=again.operation_id if again else None, reason=again.words if again else "",
    )  # fmt: skip


def _first_spec(engine: Core, wish: Publish, config: Rendered) -> dict[str, Any]:
    """What a new instance is asked to be; a region left out is "": any."""
    return {
        "replicas": wish.replicas or 1,
        **_sized(engine, wish.size or "s"),
        "region": wish.region or "",
        "isolation_tier": wish.isolation_tier or effects.DEFAULT_TIER,
        "custom_hostname": wish.custom_hostname or "",
        "image_tag": wish.image_tag or "latest",
        "config_version": 1,
        "config_hash": config.sha256,
    }


def _sized(engine: Core, size: str) -> dict[str, Any]:
    """A size class, and what a replica of it takes from now on, whatever becomes of the class."""
    return {"size": size, **engine.sizes[size]._asdict()}


def _next_spec(engine: Core, wish: Publish, old: dict[str, Any]) -> dict[str, Any]:
    """*old* with what *wish* changes; the config aside. Refuses what cannot change in place."""
    for field in ("region", "isolation_tier"):
        asked = getattr(wish, field)
        if asked is not None and asked != old.get(field):
            raise BadSpec(
                f"{field} of {wish.name} cannot change in place",
                cause=f"it is {old.get(field) or 'unset'}, and {asked} was asked for",
                hint="delete it and create it anew, or leave the option out",
            )
    changeable = ("replicas", "custom_hostname", "image_tag")
    changed = {f: v for f in changeable if (v := getattr(wish, f)) is not None}
    return old | changed | (_sized(engine, wish.size) if wish.size is not None else {})


@dataclass(frozen=True, slots=True)
class Plan:
    """
    What a publish would do now: in which cluster (as it is before), and what it then holds more there (or less) than now.

    `config_sha256` is of the file as it was sent.
    """

    action: Literal["create", "update"]
    spec: dict[str, Any]
    room: Room
    change: Need
    config_sha256: str


async def plan(engine: Core, scope: Scope, wish: Publish) -> Plan:
    """Publish without doing it: its answer, or the refusal it would give, NoCapacity included. Reserves nothing."""
    needs_provisioner(engine)
    raw = wish.config if wish.config is not None else DEFAULT_CONFIG
    config = await _rendered(raw)
    holder = await reads.find_live_name(engine.db, wish.name)
    if holder is not None:
        await running_on(engine, scope, holder, "")
    spec = _next_spec(engine, wish, holder["spec"]) if holder else _first_spec(engine, wish, config)
    held = await reads.find_reservation(engine.db, holder["id"]) if holder else None
    chosen, _ = await effects.choose(engine, held, spec)
    if isinstance(chosen, Refusal):
        hint = effects.room_hint(spec, chosen, held_in=holder["cluster"] if holder and held else "")
        raise NoCapacity(f"no cluster can take {wish.name}", cause=str(chosen), hint=hint)
    engine.rooms.changed(chosen.id)  # nothing is taken
    before = Need(held["places"], held["cpu_millicores"], held["memory_bytes"]) if held else NOTHING
    change = Need(*(after - now for after, now in zip(effects.need_of(spec), before, strict=True)))
    return Plan("update" if holder else "create", spec, chosen, change, config.raw_sha256)


async def delete(
    engine: Core, scope: Scope, instance_uid: str, *, actor: str, key: str | None, again: Anew | None = None
) -> Operation:
    """
    Accept a teardown. Raises NotFound, Busy (naming what runs), KeyReused, and Refused for a gateway that enrolled itself
    and has not departed: we cannot stop it.
    """
    return await first_or_same(lambda: _delete(engine, scope, instance_uid, actor, key, again))


async def _delete(
    engine: Core, scope: Scope, instance_uid: str, actor: str, key: str | None, again: Anew | None
) -> Operation:
    digest = body_hash(scope, "delete", {"instance_uid": instance_uid})
    row = await reads.find_instance_by_uid(engine.db, instance_uid)
    same = await same_request(engine, scope, digest, key)
    if same is not None:
        return same
    if row is None or scope_of(row) != scope or row["deleted_at"] is not None:
        gone = row is not None and scope_of(row) == scope
        raise NotFound(
            f"no instance {instance_uid} in {scope}",
            cause="it was deleted" if gone else "",
            hint=f"the uids: mcpg-ctl instance list --org {scope.org} -o wide",
        )
    before: list[Step] = []
    after: list[Step] = []
    if not row["managed"]:
        await _must_have_departed(engine, row)
        before = [writes.departed_only(row["id"])]
    held = await reads.find_operation(engine.db, row["operation_id"]) if row["operation_id"] else None
    if held is not None and held["state"] == "paused" and held["machine"] != recovery.MACHINE.name:
        if held["machine"] == teardown.MACHINE.name:  # the same delete, asked for again: go on with it
            await engine.db.writer.fire(
                Fire(
                    teardown.MACHINE, held["id"], teardown.Event.RESUME, actor, expect=held["version"],
                    reason="deleted again", claim=engine.leases.claim,
                )
            )  # fmt: skip
            return await join(engine, Operation.of(held), key)
        before += _superseded(engine, held, actor)
        after = [
            writes.hide_endpoints(row["id"])
        ]  # there is no whole gateway to drain, nor one that a cancel could keep
    else:
        running = await running_on(engine, scope, row, digest)
        if running is not None:
            return await join(engine, running, key)
    operation_id, name = short_id("op-"), row["name"] or row["instance_uid"]
    op = new_operation(operation_id, "teardown", "delete", scope, name, row["id"], row["spec"], None, actor, digest)
    also: list[Step] = [*before, *await occupy(engine, row, operation_id, actor), *after]
    return await accept(
        engine, op, teardown.Event.ACCEPT, also, key,
        retry_of=again.operation_id if again else None, reason=again.words if again else "",
        facts=teardown.Seen(superseded=bool(after)),
    )  # fmt: skip


def delete_command(row: Row) -> str:
    """What deletes this gateway, whatever the place that is set."""
    place = f"--org {row['org']} --workspace {row['workspace']} --env {row['environment']}"
    return f"mcpg-ctl provision delete {place} --instance-uid {shlex.quote(row['instance_uid'])}"


_DEPARTS = {
    enrolment.State.ENROLLING.value: "it departs when nothing is heard of it for ten minutes",
    enrolment.State.ONLINE.value: "stopped, it departs when it says goodbye, else after five minutes of silence",
    enrolment.State.STALE.value: "it departs after five minutes of silence",
    enrolment.State.QUARANTINED.value: "it departs once it is revived and stopped",
}


async def _must_have_departed(engine: Core, row: Row) -> None:
    """Of a gateway that enrolled itself only what is known of it can be deleted, once nothing of it runs any more."""
    uid = row["instance_uid"]
    for agent in await reads.agents(engine.db, row["id"]):
        if agent["state"] in _DEPARTS:
            raise Refused(
                f"{uid} has not departed: it is {agent['state']}",
                cause=f"it enrolled itself: only who started it can stop it; {_DEPARTS[agent['state']]}",
                hint=f"stop it where it runs and see it depart: mcpg-ctl instance show {shlex.quote(uid)}"
                f"      then: {delete_command(row)}",
                agent=agent["id"],
                state=agent["state"],
            )


def _superseded(engine: Core, held: Row, actor: str) -> list[Step]:
    """A provision that paused is over: the delete takes back everything it could not."""
    words = "the gateway is being deleted"
    return [
        Fire(
            provision.MACHINE, held["id"], provision.Event.SUPERSEDED, actor, expect=held["version"], reason=words,
            data={"code": "cancelled"}, sets=effects.ended(engine, words, "cancelled"),
        ),
        writes.end_operation(held["instance_id"]),
    ]  # fmt: skip
