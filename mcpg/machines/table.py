"""
What a machine is: states, events, the moves between them, and who moves a row on from each state.

The kernel under every file of this folder and the only user of `transitions`. A table is data: `definition()` is
canonical JSON and `definition_hash` its digest; both go with every journal line, so that a history can be read against
the definition it was made by. `step()` computes one move on a throw-away pebble; writing it down is mcpg/store/journal.py.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mcpg.errors import GuardRefused, NoSuchMove

if TYPE_CHECKING:
    from transitions import Machine

logging.getLogger("transitions").setLevel(logging.WARNING)  # it logs every state entered at INFO

Guard = Callable[[Any], bool]


@dataclass(frozen=True, slots=True)
class Facts:
    """All that a guard may know, gathered just before the move and stored with the journal line. JSON values only."""

    def as_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


NO_FACTS = Facts()


@dataclass(frozen=True, slots=True)
class Move:
    """In *source*, on *event*, when *guard* holds: go to *dest*. The first matching row of a table wins."""

    source: Enum
    event: Enum
    dest: Enum
    guard: Guard | None = None


@dataclass(frozen=True, slots=True)
class Work:
    """
    What the engine does while a row rests here, and the events the outcome may raise.

    `undo` names the effect that takes it back, in compensation. `timeout_s` is the state's absolute deadline, counted
    from entering it; when it passes, `late` is raised.
    """

    effect: str
    done: Enum
    failed: Enum
    late: Enum
    timeout_s: float
    undo: str | None = None
    others: tuple[Enum, ...] = ()  # further outcomes the effect may raise


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do but watch: `for_` says what for. `late` is raised when `timeout_s` has passed (None: no limit)."""

    for_: str
    late: Enum | None = None
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class Owner:
    """Somebody other than the engine moves a row on from here; `who` says who, and how."""

    who: str


Rest = Work | Wait | Owner


@dataclass(frozen=True)
class Table:
    """
    One machine. `birth` is the event of a subject's first journal line (from "" to `initial`); every state that is not
    in `final` has an entry in `rests`; `phases` maps states to what the public ladder calls them. `title` and `about`
    (every state in words) are for people: no part of the definition.
    """

    name: str
    title: str
    states: type[Enum]
    events: type[Enum]
    birth: Enum
    initial: Enum
    final: frozenset[Enum]
    about: Mapping[Enum, str]
    moves: Sequence[Move]
    rests: Mapping[Enum, Rest]
    facts: type[Facts] = Facts
    phases: Mapping[Enum, str] = field(default_factory=dict)
    failures: frozenset[Enum] = frozenset()  # final states that are a failure of what was asked

    @cached_property
    def _machine(self) -> Machine:
        """No models, no callbacks, no auto-transitions; nothing is ever registered with it."""
        from transitions import Machine  # noqa: PLC0415 - 50 ms, which who only reads definitions need not pay

        return Machine(
            model=None,
            states=[{"name": s.value, "final": s in self.final} for s in self.states],
            initial=self.initial.value,
            transitions=[
                {
                    "trigger": m.event.value,
                    "source": m.source.value,
                    "dest": m.dest.value,
                    "conditions": [m.guard] if m.guard else [],
                }
                for m in self.moves
            ],
            auto_transitions=False,
        )

    @cached_property
    def _settled(self) -> dict[tuple[str, str, tuple[bool, ...]], Enum]:
        """Where an event leads for each answer of its guards, once `transitions` has decided it: asked often."""
        return {}

    @cached_property
    def _guards(self) -> dict[tuple[str, str], tuple[Guard, ...]]:
        found: dict[tuple[str, str], tuple[Guard, ...]] = {}
        for m in self.moves:
            key = (m.source.value, m.event.value)
            found[key] = (*found.get(key, ()), *([m.guard] if m.guard else []))
        return found

    @cached_property
    def _allowed(self) -> dict[str, frozenset[str]]:
        return {s.value: frozenset(m.event.value for m in self.moves if m.source is s) for s in self.states}

    def step(self, state: str, event: Enum, facts: Facts = NO_FACTS) -> Enum:
        """
        Where *event* takes *state*. Pure: the caller writes the answer down.

        Raises NoSuchMove when the table has no such move, also for a state it does not know (a newer version's row);
        GuardRefused when it has and every guard said no.
        """
        asked = self._guards.get((state, event.value), ())
        key = (state, event.value, tuple([guard(facts) for guard in asked]) if asked else ())
        settled = self._settled.get(key)
        if settled is not None:
            return settled
        if event.value not in self._allowed.get(state, ()):
            raise NoSuchMove(
                f"{self.name}: {event.value} is not possible from {state}",
                cause=f"from {state} the moves are: {', '.join(self.allowed(state)) or 'none, it is final'}",
                machine=self.name,
                state=state,
                allowed=self.allowed(state),
            )
        pebble = _Pebble(state)
        if not self._machine.events[event.value].trigger(pebble, facts):
            guards = [m.guard.__name__ for m in self.moves if m.source.value == state and m.event is event and m.guard]
            raise GuardRefused(
                f"{self.name}: {event.value} from {state} is not allowed now",
                cause=f"needs {' or '.join(guards)}; seen: {json.dumps(facts.as_json(), sort_keys=True)}",
                machine=self.name,
                state=state,
                allowed=self.allowed(state),
            )
        dest = self.states(pebble.state)
        self._settled[key] = dest
        return dest

    def allowed(self, state: str) -> list[str]:
        """The events that have a move from *state*, guards aside, sorted; for help and error text."""
        return sorted(self._allowed.get(state, ()))

    def phase(self, state: str) -> str:
        """What the public ladder calls *state*; the state itself where the table names nothing else."""
        return self._phase_of.get(state, state)

    @cached_property
    def _phase_of(self) -> dict[str, str]:
        return {s.value: p for s, p in self.phases.items()}

    @cached_property
    def working(self) -> tuple[str, ...]:
        """States in which the engine has something to do."""
        return tuple(s.value for s, r in self.rests.items() if isinstance(r, Work))

    @cached_property
    def driven(self) -> frozenset[str]:
        """States that the engine moves on from: by work, or by watching."""
        return frozenset(s.value for s, r in self.rests.items() if isinstance(r, Work | Wait))

    @cached_property
    def timeouts(self) -> dict[str, float | None]:
        """Seconds a row may rest in each state that is not final; None for no limit."""
        return {s.value: r.timeout_s if isinstance(r, Work | Wait) else None for s, r in self.rests.items()}

    @cached_property
    def final_values(self) -> frozenset[str]:
        return frozenset(s.value for s in self.final)

    @cached_property
    def failure_values(self) -> frozenset[str]:
        return frozenset(s.value for s in self.failures)

    def definition(self) -> dict[str, Any]:
        """The table as JSON values: everything that decides a move or a deadline, in declared order."""

        def rest(r: Rest) -> dict[str, Any]:
            raw = {f.name.rstrip("_"): getattr(r, f.name) for f in dataclasses.fields(r)}
            return {"kind": type(r).__name__.lower()} | {k: _plain(v) for k, v in raw.items()}

        return {
            "name": self.name,
            "states": [s.value for s in self.states],
            "events": [e.value for e in self.events],
            "birth": self.birth.value,
            "initial": self.initial.value,
            "final": sorted(self.final_values),
            "failures": sorted(self.failure_values),
            "facts": [f.name for f in dataclasses.fields(self.facts)],
            "moves": [
                [m.source.value, m.event.value, m.guard.__name__ if m.guard else None, m.dest.value] for m in self.moves
            ],
            "rests": {s.value: rest(r) for s, r in self.rests.items()},
            "phases": {s.value: p for s, p in self.phases.items()},
        }

    @cached_property
    def canonical(self) -> str:
        return json.dumps(self.definition(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    @cached_property
    def definition_hash(self) -> str:
        """sha256 hex of the canonical JSON."""
        return hashlib.sha256(self.canonical.encode()).hexdigest()

    @property
    def label(self) -> str:
        """`name@` and the first 12 of the hash: how a definition is shown."""
        return f"{self.name}@{self.definition_hash[:12]}"


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    return value


@dataclass(slots=True)
class _Pebble:
    """`transitions` moves it across the table, we read where it lies, and drop it."""

    state: str
