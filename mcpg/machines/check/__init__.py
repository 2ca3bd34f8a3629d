"""
The model checker of the shipped machines: explicit-state, over the tables that the engine runs.

Two halves. `shape` looks at each table alone. `product` explores every state that several of them can come to together
with the engines that drive them, room in a cluster, and gateways outside, when engines are killed, leases run out, outcomes
arrive twice or late, and people cancel, resume, publish and delete at any moment. Nothing here copies a table: what moves is
decided by `Table.step`. What the code around the tables guarantees is in `parts.Rules`, and each effect names the function
it abstracts. docs/checker.md is for readers; called by `mcpg-ctl machine check` and by tests/machines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from mcpg.machines.check import agent, rows
from mcpg.machines.check.explore import LIVELOCK, STUCK, UNOWNED, Explored, Model, Moment, Violation, explore
from mcpg.machines.check.parts import RULES, Rules, Setup
from mcpg.machines.check.product import Product
from mcpg.machines.check.shape import CHECKS, Shape, shapes
from mcpg.machines.check.worlds import WORLDS
from mcpg.machines.table import Table

Moved = tuple[str, str, str, str]
_WISHES = {  # which machines a world is about
    "create": "provision", "update": "provision", "adopt": "provision", "delete": "teardown", "recover": "recovery",
    "drain": "cluster", "undrain": "cluster", "decommission": "cluster", "force_decommission": "cluster",
}  # fmt: skip
INVARIANTS: dict[str, tuple[str, ...]] = {  # by the kind of world they are looked at in
    "product": (*rows.INVARIANTS, STUCK, UNOWNED, LIVELOCK),
    "agent": (*agent.INVARIANTS, STUCK, UNOWNED, LIVELOCK),
}


@dataclass(frozen=True)
class Named:
    """A world that can be explored: its name, what it is about, the machines in it, and how to build its model."""

    name: str
    about: str
    machines: frozenset[str]
    build: Callable[[Mapping[str, Table], Rules], Model]

    @property
    def kind(self) -> str:
        return "agent" if self.machines == {"enrolment"} else "product"


def _machines(setup: Setup) -> frozenset[str]:
    return frozenset(_WISHES[w] for w in setup.wishes if w in _WISHES)


def _product(setup: Setup, tables: Mapping[str, Table], rules: Rules) -> Model:
    return Product(tables, setup, rules)


def _agent(tables: Mapping[str, Table], rules: Rules) -> Model:
    return agent.AgentWorld(tables)


EVERY: tuple[Named, ...] = (
    *(Named(s.name, s.about, _machines(s), partial(_product, s)) for s in WORLDS),
    Named(agent.AgentWorld.name, agent.AgentWorld.about, frozenset({"enrolment"}), _agent),
)


def worlds(name: str = "") -> list[Named]:
    """Every world; those that the machine *name* takes part in; or the one of that name."""
    return [w for w in EVERY if name in ("", w.name) or name in w.machines]


def moves(tables: Iterable[Table]) -> set[Moved]:
    """Every row of *tables*, as `Explored.moves` names them."""
    return {(t.name, m.source.value, m.event.value, m.dest.value) for t in tables for m in t.moves}


def run(world: Named, tables: Mapping[str, Table], rules: Rules = RULES) -> Explored:
    """All of *world*, or up to the first violation."""
    return explore(world.build(tables, rules))


__all__ = [
    "CHECKS", "EVERY", "INVARIANTS", "RULES", "Explored", "Moment", "Named", "Rules", "Shape", "Table",
    "Violation", "moves", "run",
    "shapes", "worlds",
]  # fmt: skip
