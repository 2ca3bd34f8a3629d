"""The declared machines, as the wire has them."""

from typing import Any

from mcpg.wire.base import Body, Time


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


class Definition(Body):
    """
    A definition that ever wrote a line here: its `hash` is the sha256 of `body`, its canonical JSON. `is_current`: it is
    what this control plane runs now.
    """

    hash: str
    definition: str
    machine: str
    is_current: bool
    first_seen_at: Time | None = None
    body: str = ""


class DefinitionChange(Body):
    """
    One difference between two definitions. `kind`: state, move, guard, rest, phase, final, facts, birth, order; `how`: added,
    removed, changed. `states` are those whose rows would notice, `live` how many rest there now, null when nobody was asked.
    """

    kind: str
    how: str
    what: str
    before: str = ""
    after: str = ""
    states: list[str] = []
    live: int | None = None


class MachineDiff(Body):
    """What `mcpg-ctl machine diff` prints. `live` counts the rows of all states that would notice."""

    machine: str
    before: str
    after: str
    is_same: bool
    changes: list[DefinitionChange]
    live: int | None = None


class UpgradeCheck(Body):
    """What is asked of POST /v1/machines/upgrade-check: a definition as JSON values."""

    definition: dict[str, Any]


class UpgradeFinding(Body):
    """
    One history under another definition. `verdict`: differs (from line `seq` on it would have gone another way) or stuck (it
    rests in a state that nobody could move it on from).
    """

    subject: str
    name: str = ""
    live: bool
    state: str
    verdict: str
    seq: int
    why: str


class UpgradePage(Body):
    """
    Some histories of a machine, judged by another definition; `next` is where to go on (`?after=`), "" at the end. Of the
    findings the first hundred are listed, those that live before the rest; the counts are of all.
    """

    machine: str
    before: str
    after: str
    subjects: int
    live: int
    replayable: int
    differs: int
    stuck: int
    live_stuck: int
    findings: list[UpgradeFinding]
    next: str = ""


class UpgradeReport(UpgradePage):
    """What `mcpg-ctl machine upgrade --check` prints for one machine: all its pages together."""
