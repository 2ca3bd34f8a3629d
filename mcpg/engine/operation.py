"""One operation as the engine holds it, and what an effect may answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from mcpg.machines import TABLES
from mcpg.machines.table import NO_FACTS, Facts, Table
from mcpg.store.journal import Also, Fire


@dataclass(slots=True)
class Operation:
    """What never changes of an operation's row, and where it stands (`state`, `version`, `deadline_at`)."""

    id: str
    machine: str
    kind: str
    org: str
    workspace: str
    environment: str
    name: str
    instance_id: str
    spec: dict[str, Any]
    previous: dict[str, Any] | None
    actor: str
    body_hash: str
    state: str
    version: int
    cluster_id: str | None = None  # before it is placed: the only one that will do
    deadline_at: int | None = None
    attempt: int = 0
    next_attempt_at: int | None = None
    cancelled: bool = False
    step: int = 0
    paused_in: str = ""
    lease_owner: str | None = None
    ends: float | None = None  # its state's deadline on the monotonic clock of the event loop that drives it
    due: float | None = None  # and when an attempt that was put off is made
    endpoints: list[str] | None = None  # that its own work wrote down; None after a restart

    @classmethod
    def of(cls, row: dict[str, Any]) -> Operation:
        """From a row of the operation table, JSON columns parsed."""
        wanted = {k: row[k] for k in cls.__dataclass_fields__ if k in row}
        return cls(**{**wanted, "cancelled": bool(row["cancelled"])})

    @property
    def table(self) -> Table:
        return TABLES[self.machine]

    @property
    def is_final(self) -> bool:
        return self.state in self.table.final_values


@dataclass(frozen=True, slots=True)
class Outcome:
    """
    An effect's answer: the event to raise, and what else goes into its transaction. `again_s`: an attempt failed, and the
    next is made after so many seconds. `within_s`: a shorter deadline than the table's for the state that is entered.
    """

    event: Enum
    facts: Facts = NO_FACTS
    reason: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    sets: dict[str, Any] = field(default_factory=dict)
    also: tuple[Also | Fire, ...] = ()
    again_s: float | None = None
    within_s: float | None = None
