"""
An update, replica by replica: its steps, what each of them touches, and the way back.

Pure functions say which steps an operation has (`steps_of`); `operation.step` says which one it is at, and the instance's
`rolled` which replicas are assigned the new config, so a restart goes on where it was. At any time at most one replica
that serves is touched. Called by effects.py (the work) and evidence.py (what must be seen before the next step).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mcpg.engine import rollcall
from mcpg.engine.core import Core
from mcpg.engine.operation import Operation
from mcpg.engine.ports import Order, Placed
from mcpg.errors import Conflict, GatewayExited, McpgError, PermanentError, TemporaryError
from mcpg.machines import provision
from mcpg.store import reads, writes
from mcpg.store.journal import Line

PATIENCE_S = 10.0  # of one wait for a replica to serve again, before the journal says that it is being waited for

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Step:
    """
    `touches` are told the new config, or started where they do not run. `rolled`: after it, replicas 1 to `rolled` are as
    the new spec says. `stops`: replicas above the wanted number are stopped.
    """

    touches: frozenset[int]
    rolled: int
    stops: bool = False


def _numbers(first: int, last: int) -> frozenset[int]:
    return frozenset(range(first, last + 1))


def changes_config(op: Operation) -> bool:
    """Whether running replicas must be told something: by what the config is, not by its version's number."""
    return op.previous is not None and op.spec["config_hash"] != op.previous["config_hash"]


def steps_of(op: Operation) -> tuple[Step, ...]:
    """
    A create is one step. An update rolls a changed config over the replicas that stay, one a step; then it starts those
    that are new, together; last it stops those that are too many. Without a changed config nobody who serves is touched.
    """
    new = op.spec["replicas"]
    old = op.previous["replicas"] if op.previous is not None else new
    stay = min(old, new)
    steps = [Step(frozenset({k}), k) for k in range(1, stay + 1)] if changes_config(op) else []
    if not steps:
        steps.append(Step(_numbers(1, new), new))
    elif new > old:
        steps.append(Step(_numbers(old + 1, new), new))
    if new < old:
        steps.append(Step(frozenset(), new, stops=True))
    return tuple(steps)


def step_of(op: Operation) -> Step:
    steps = steps_of(op)
    return steps[min(op.step, len(steps) - 1)]


def is_one_of_several(op: Operation, step: Step) -> bool:
    """Whether this step is one replica's turn in a roll over several."""
    return changes_config(op) and len(step.touches) == 1 and len(steps_of(op)) > 1


def next_of(op: Operation) -> Step | None:
    """What comes after the step it is at; None at the last."""
    return next(iter(steps_of(op)[op.step + 1 :]), None)


def served_before(lines: Iterable[Line]) -> frozenset[int]:
    """The replicas that served when the operation began, as its `reserved` line has them."""
    noted = (line.data for line in lines if line.event == provision.Event.RESERVED.value)
    return frozenset(next(noted, {}).get("serving", ()))


async def serving_now(engine: Core, op: Operation) -> list[int]:
    """For the `reserved` line of what exists already: who is not to be missing while the operation runs."""
    if op.previous is None or engine.provisioner is None:
        return []
    if not engine.provisioner.observes:
        return list(range(1, op.previous["replicas"] + 1))
    return sorted((await rollcall.call(engine, op.instance_id)).serving)


async def converge(
    engine: Core, op: Operation, most: int, key: str = "", *, only: frozenset[int] | None = None, stops: bool = True
) -> tuple[tuple[Placed, ...], int]:
    """
    Make the provisioner and the connected agents follow what is assigned to each replica: those that run, and how many
    agents were sent something. See ports.Order for *only* and *stops*.

    *key* is the idempotency key of an order that is not the operation's first.
    """
    if engine.provisioner is None:
        raise PermanentError(f"{op.name} cannot be started here", cause="this control plane runs without a provisioner")
    configs: dict[int, Row] = {}

    async def config(replica: int) -> str:
        if not configs and (instance := await reads.find_instance(engine.db, op.instance_id)) is not None:
            configs.update(await reads.assigned_of(engine.db, instance, range(1, most + 1)))
        if replica not in configs:
            raise PermanentError(f"the config of {op.name}, replica {replica}, is not in the database")
        return str(configs[replica]["rendered"])

    async def enrol(replica: int) -> str:
        await _still_ours(engine, op)
        return await engine.mint(op, replica)

    placed = await engine.provisioner.apply(
        Order(
            op.instance_id, op.name, key or op.id, most, config, enrol, lambda replica: f"{op.instance_id}.{replica}",
            only, stops, lambda: _still_ours(engine, op),
        )
    )  # fmt: skip
    return placed, await engine.fleet.push(op.instance_id)


async def _still_ours(engine: Core, op: Operation) -> None:
    """
    The last look before a process is stopped or started, under the provisioner's lock of the instance. Raises Conflict when
    somebody went on with the operation: what runs may be what they started, and what is started now nobody would ever stop.
    """
    row = await reads.find_operation(engine.db, op.id)
    if row is None or row["version"] != op.version or row["lease_owner"] not in (None, engine.epoch):
        raise Conflict(f"{op.id} was overtaken", cause="another engine, or an operator, went on with it meanwhile")


# ---- the way back


def foresee_back(op: Operation) -> str:
    """What `back` will do, in words."""
    assert op.previous is not None  # noqa: S101 - a create is removed as a whole
    old, new, here = op.previous["replicas"], op.spec["replicas"], step_of(op)
    words = [f"start {replicas(new + 1, old)} again"] if here.stops else []
    words += [f"remove {replicas(old + 1, new)}"] if new > old and here.rolled > old else []
    if changes_config(op):
        words.append(f"put config version {op.previous['config_version']} back on {_told(old, here)}")
    return ", then ".join(words) or "leave every replica as it is"


def _told(old: int, here: Step) -> str:
    last = min(here.rolled, old)
    if last == old:
        return f"{old} replica{'s' * (old != 1)}"
    return replicas(1, last)


async def back(engine: Core, op: Operation, lines: Sequence[Line], key: str) -> tuple[list[str], list[Placed]]:
    """
    Take back what an update did, newest first, as carefully as it was done: what was stopped is started again, what was
    started anew is removed, and each replica that was told goes back to the previous config, never more than one at a
    time: before it is touched, those after it serve. What was down before the update may stay down; who served and was
    not come to is started again if it ended meanwhile. Words for each, and who runs. May be repeated.
    """
    assert op.previous is not None  # noqa: S101 - a create is removed as a whole
    old, new, here = op.previous["replicas"], op.spec["replicas"], step_of(op)
    served, words = served_before(lines), list[str]()
    placed: tuple[Placed, ...] = ()
    if here.stops:  # whether or not they were stopped yet
        placed, _ = await _put_back(engine, op, _numbers(new + 1, old), served, key)
        words.append(f"{replicas(new + 1, old)} started again")
    if new > old and here.rolled > old:
        placed, _ = await converge(engine, op, old, key, only=frozenset())
        words.append(f"{replicas(old + 1, new)} removed")
    untouched = frozenset(n for n in served if here.rolled < n <= old)
    if untouched:
        placed, _ = await _put_back(engine, op, untouched, served, key)
    if changes_config(op):
        for number in range(min(here.rolled, old), 0, -1):
            await until_serving(engine, op.instance_id, frozenset(n for n in served if number < n <= old))
            instance = await reads.find_instance(engine.db, op.instance_id) or {}
            if instance["rolling_from"] is not None and instance["rolled"] >= number:
                # before the push: an agent that connects now must be given the old config
                await engine.db.writer.execute(writes.roll(op.instance_id, op.id, number - 1))
            placed, trouble = await _put_back(engine, op, frozenset({number}), served, key)
            words += [trouble] if trouble else []
        words.append(f"config version {op.previous['config_version']} put back on {_told(old, here)}")
    if not placed:
        placed, _ = await converge(engine, op, old, key, only=frozenset(), stops=False)
    return words, list(placed)


async def _put_back(
    engine: Core, op: Operation, numbers: frozenset[int], served: frozenset[int], key: str
) -> tuple[tuple[Placed, ...], str]:
    """
    Start and tell *numbers*, and wait until those that served before do so again. Who was down before does not have to
    come up: why it did not is answered then.
    """
    assert op.previous is not None  # noqa: S101 - see `back`
    for number in numbers:
        engine.exits.get(op.instance_id, {}).pop(number, None)
    try:
        placed, _ = await converge(engine, op, op.previous["replicas"], key, only=numbers, stops=False)
    except TemporaryError:
        raise
    except McpgError as exc:
        if numbers & served:
            raise
        placed, _ = await converge(engine, op, op.previous["replicas"], key, only=frozenset(), stops=False)
        return placed, f"{exc.what}, as before"
    await until_serving(engine, op.instance_id, numbers & served)
    return placed, ""


async def until_serving(engine: Core, instance_id: str, numbers: frozenset[int]) -> None:
    """
    Wait until all of *numbers* serve what is assigned to them.

    Raises GatewayExited when one of them ends meanwhile, PermanentError when one refuses its config, and TemporaryError
    after ten seconds: the wait is taken up again, within the deadline of the state, and the journal says what for.
    """
    if engine.provisioner is None or not engine.provisioner.observes:
        return
    looks, until = 0, asyncio.get_running_loop().time() + PATIENCE_S
    while True:
        seen = await rollcall.call(engine, instance_id, numbers)
        if numbers <= seen.serving:
            return
        for number, exited in (await engine.ended(instance_id)).items():
            if number in numbers:
                raise GatewayExited(f"replica {number} ({exited.process}) did not stay up", cause=str(exited))
        for agent in seen.refused:
            if agent["replica"] in numbers:
                raise PermanentError(f"replica {agent['replica']} refuses its config", cause=agent["config_error"])
        if asyncio.get_running_loop().time() >= until:
            late = min(numbers - seen.serving)
            raise TemporaryError(f"replica {late} does not serve yet", cause=seen.words(late), delay=1.0)
        await engine.news(instance_id, rollcall.PROBE_AGAIN_S[min(looks, len(rollcall.PROBE_AGAIN_S) - 1)])
        looks += 1


def replicas(first: int, last: int) -> str:
    """ "replica 2", "replicas 2 and 3", "replicas 2 to 5"."""
    if first == last:
        return f"replica {first}"
    return f"replicas {first} {'and' if last == first + 1 else 'to'} {last}"
