"""
What nobody looks after, though somebody should: open operations that no control plane drives, gateways that dial one that is
gone, and those that are not brought back because their recovery was cancelled. Read from leases, heartbeats, processes and the
journal, each with since when that is so. Called by mcpg/api/replicas.py, and for gateways alone by mcpg/api/instances.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from mcpg.engine import supervision
from mcpg.engine.adrift import STRANDED_S
from mcpg.engine.core import Core
from mcpg.machines import recovery
from mcpg.store import reads, verify

UNDRIVEN_S: Final = 15.0  # a lease that is over is taken at the next sweep, a second later
MOST: Final = 200  # operations in one answer


@dataclass(frozen=True, slots=True)
class Stranded:
    """
    `subject` is the operation's id or the gateway's uid; `brief` says it beside its state, `words` alone; `since` in
    microseconds; `hint` is the next command.
    """

    kind: Literal["operation", "gateway"]
    subject: str
    brief: str
    words: str
    since: int
    hint: str


async def stranded(engine: Core) -> list[Stranded]:
    """All kinds, the longest first. Of gateways that dial nobody those alone that this control plane could start."""
    found = [*await _operations(engine), *await _gateways(engine), *await _left_down(engine)]
    return sorted(found, key=lambda each: (each.since, each.subject))


async def gateways(engine: Core) -> dict[str, Stranded]:
    """The gateways among them, by uid."""
    return {each.subject: each for each in [*await _gateways(engine), *await _left_down(engine)]}


async def _operations(engine: Core) -> list[Stranded]:
    rows = await verify.undriven(engine.db, UNDRIVEN_S, engine.epoch, MOST)
    if not rows:
        return []
    heard = await verify.living_provisioners(engine.db)
    runs_gateways = engine.provisioner is not None or any(p not in ("", "none") for p in heard)
    return [await _operation(engine, row, runs_gateways=runs_gateways) for row in rows]


async def _operation(engine: Core, row: dict[str, Any], *, runs_gateways: bool) -> Stranded:
    words = f"{row['id']} ({row['kind']} {row['name']}) is in {row['state']} and nobody drives it"
    if row["managed"] and not runs_gateways:
        words += ": no control plane that runs gateways is alive"
    elif row["lease_owner"] is None:
        words += ": it is free, and no control plane takes it"
    else:
        holder = await verify.replica_of(engine.db, row["lease_owner"])
        who = "a start that is over" if holder is None else f"{holder['id']} on {holder['host']}"
        words += f": the lease of {who} has ended, and no control plane takes it"
    hint = f"mcpg-ctl operation explain {row['id']}"
    return Stranded("operation", row["id"], "nobody drives it", words, row["since"], hint)


async def _gateways(engine: Core) -> list[Stranded]:
    out = []
    for instance_id, since in list(engine.adrift_since.items()):
        lost = engine.adrift(instance_id)
        row = await reads.find_instance(engine.db, instance_id)
        if not lost or row is None or engine.provisioner is None:
            continue
        dialled = engine.provisioner.dials(instance_id)
        urls = ", ".join(sorted({dialled[number] for number in lost if number in dialled}))
        who = f"replica{'s' * (len(lost) > 1)} {', '.join(map(str, sorted(lost)))}"
        words = f"{row['name']} ({who}) dials {urls}, where no control plane lives;"
        words += f" after {STRANDED_S:g} s of that it is started anew by itself; if it is not, publish it again"
        place = f"--org {row['org']} --workspace {row['workspace']} --env {row['environment']}"
        hint = f"mcpg-ctl provision create {place} --name {row['name']}"
        out.append(Stranded("gateway", row["instance_uid"], "dials nobody", words, since, hint))
    return out


async def _left_down(engine: Core) -> list[Stranded]:
    """Gateways whose newest operation is a recovery that was cancelled while something of them was down."""
    out = []
    for row in await verify.cancelled_last(engine.db, recovery.MACHINE.name):
        if not await supervision.is_left_down(engine, row):
            continue
        is_down = bool(await supervision.down(engine, row["instance_id"]))
        words = f"{row['name']} is not supervised: its recovery {row['id']} was {row['error'] or 'cancelled'}"
        words += "; a replica of it is down" if is_down else "; whatever of it ends stays down"
        hint = f"mcpg-ctl operation retry {row['id']}" if is_down else f"mcpg-ctl provision create --name {row['name']}"
        out.append(Stranded("gateway", row["instance_uid"], "not supervised", words, row["finished_at"], hint))
    return out
