"""The declared machines, as the wire has them."""

from typing import Any

from mcpg.wire.base import Body


class MachineSummary(Body):
    """One machine. `rows` counts the rows that rest in each state now."""

    name: str
    definition: str
    title: str
    states: int
    moves: int
    rows: dict[str, int]


class MachineState(Body):
    """
    One state. `rest` says who moves a row on from it: `kind` is work (the engine), wait, owner, or "" for a final state;
    the other keys are the definition's.
    """

    name: str
    about: str
    phase: str
    rest: dict[str, Any]
    rows: int = 0


class MachineMove(Body):
    source: str
    event: str
    dest: str
    guard: str = ""


class Machine(Body):
    """One machine whole. `hash` is the sha256 of `body`, the definition as canonical JSON; `mermaid` is its diagram."""

    name: str
    definition: str
    hash: str
    title: str
    initial: str
    final: list[str]
    failures: list[str]
    states: list[MachineState]
    moves: list[MachineMove]
    mermaid: str
    body: str
