"""
Who of an instance's replicas is there, runs what it should, and answers: one look, for every part that waits for it.

Called by evidence.py (may an operation go on?), rolling.py (may the next replica be touched?) and supervision.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mcpg.engine.core import Core
from mcpg.engine.ports import Answer
from mcpg.machines import enrolment
from mcpg.store import reads

PROBE_AGAIN_S = (0.05, 0.1, 0.2, 0.5, 1.0)  # between two probes of an endpoint that does not answer yet

NOBODY = frozenset({0})  # is never among those that are there, so that no endpoint is asked

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rollcall:
    """
    Numbers of replicas: `online` have a channel open; of these `active` last acknowledged the config that is assigned to
    them; `refused` are the agents that refused that very config. `answers` is the probe's, empty when none was made.
    """

    online: frozenset[int]
    active: frozenset[int]
    refused: tuple[Row, ...]
    answers: tuple[Answer, ...] = ()

    @property
    def answering(self) -> frozenset[int]:
        return frozenset(a.replica for a in self.answers if a.ok)

    @property
    def deaf(self) -> frozenset[int]:
        """Those that no wait will bring to their endpoint."""
        return frozenset(a.replica for a in self.answers if a.deaf)

    @property
    def serving(self) -> frozenset[int]:
        return self.active & self.answering

    def words(self, replica: int) -> str:
        """Why this one does not serve."""
        if replica not in self.online:
            return "not connected"
        if replica not in self.active:
            return "has not acknowledged its config"
        return next((a.detail for a in self.answers if a.replica == replica), "not probed")


async def call(engine: Core, instance_id: str, needed: frozenset[int] = frozenset()) -> Rollcall:
    """Look now. Endpoints are asked once every replica of *needed* has acknowledged its config: sooner it is no use."""
    instance = await reads.find_instance(engine.db, instance_id)
    agents = await reads.agents(engine.db, instance_id)
    if instance is None:
        return Rollcall(frozenset(), frozenset(), ())
    wanted = {a["replica"]: reads.assigned(instance, a["replica"])[1] for a in agents}
    is_online = enrolment.State.ONLINE.value
    online = [a for a in agents if a["state"] == is_online and engine.fleet.is_connected(a)]
    active = frozenset(a["replica"] for a in online if a["active_hash"] == wanted[a["replica"]])
    refused = tuple(a for a in agents if a["rejected_hash"] and a["rejected_hash"] == wanted[a["replica"]])
    answers: tuple[Answer, ...] = ()
    if needed <= active and engine.provisioner is not None:
        answers = await engine.provisioner.probe(instance_id)
    return Rollcall(frozenset(a["replica"] for a in online), active, refused, answers)
