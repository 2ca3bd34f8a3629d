"""
Gateways that run and dial a control plane that is gone: an agent knows one address, so nobody can reach them.

Only where several control planes share a database, without a load balancer in front of their gRPC ports. An operation that
needs such a gateway, or one that will never listen where it should, has it started anew, here (`gather`). One that nobody
works on is left alone for a minute, for its control plane may come back, and is recovered then (`patrol`). It serves
meanwhile, so replicas are started anew one by one.
"""

from __future__ import annotations

import asyncio
import logging

from mcpg.engine import rolling, supervision
from mcpg.engine.core import Core
from mcpg.engine.operation import Operation, Outcome
from mcpg.engine.rollcall import Rollcall
from mcpg.machines import provision
from mcpg.store import reads, writes

log = logging.getLogger("mcpg.engine")

PATROL_S = 10.0
STRANDED_S = 60.0  # a control plane that is only restarted is back by then


async def gather(
    engine: Core, op: Operation, lost: frozenset[int], needed: frozenset[int], now: Rollcall, seen: provision.Seen
) -> Outcome | None:
    """
    Have what an operation waits for start anew, and say so in its journal. Of a create all at once; of an update one, and
    only while all the others that should serve do: None until then.
    """
    if op.previous is not None:
        if not needed - lost <= now.serving:
            return None
        lost = frozenset({min(lost)})
    is_deaf = bool(lost & now.deaf)
    why = "the one before it did not listen where it should" if is_deaf else "the control plane that it dialled is gone"
    placed, _ = await rolling.converge(
        engine, op, op.spec["replicas"], f"{op.id}-adrift-{op.version}", only=lost, stops=False
    )
    words = ", ".join(f"replica {p.replica}: process {p.pid} started" for p in placed if p.replica in lost)
    return Outcome(
        provision.Event.OBSERVED,
        facts=seen,
        reason=f"{words}; {why}",
        also=(writes.set_endpoints(op.instance_id, [e for p in placed for e in p.endpoints]),),
    )


async def patrol(engine: Core) -> None:
    """For as long as the engine runs: recover what has been adrift for a minute and nobody works on."""
    while True:
        await asyncio.sleep(PATROL_S)
        try:
            for instance_id in await look(engine):
                await supervision.look_after(engine, instance_id)
        except Exception:
            log.exception("could not look for gateways that are adrift; trying on every %g s", PATROL_S)


async def look(engine: Core) -> list[str]:
    """Instances that have been adrift for long enough; `adrift_since` keeps when each was first seen so (microseconds)."""
    now, since = engine.clock(), engine.adrift_since
    found = {i: lost for i in await reads.unattended(engine.db) if (lost := engine.adrift(i))}
    for instance_id in [i for i in since if i not in found]:
        del since[instance_id]
    stranded = [i for i in found if now - since.setdefault(i, now) >= STRANDED_S * 1e6]
    engine.stranded = {i: found[i] for i in stranded}
    return stranded
