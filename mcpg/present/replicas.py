"""Control planes on this database, and what none of them looks after, as bodies of the wire."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from mcpg.engine.stranded import Stranded
from mcpg.present.base import Row, when
from mcpg.store.journal import LEASE_S
from mcpg.wire.fleet import Replica
from mcpg.wire.fleet import Stranded as Body

State = Literal["living", "late", "left"]


def replica(row: Row, driven: Mapping[str, int], *, here: str, now: int, ahead_s: float | None) -> Replica:
    """
    *driven*: open operations by epoch. Who answers (its epoch is *here*) is seen now; *now*, in microseconds, is by its
    clock, which is *ahead_s* ahead of the database's.
    """
    is_me = row["epoch"] == here
    silent = 0 if is_me else max(0, row["asked_at"] - row["seen_at"])  # both by the database's clock
    seen = now - silent if is_me or row["seen_at"] else None
    state: State = "left" if seen is None else "living" if silent < LEASE_S * 1e6 else "late"
    return Replica(
        id=row["id"], epoch=row["epoch"], here=is_me, state=state, host=row["host"], pid=row["pid"],
        version=row["version"], http_url=row["http_url"], grpc_url=row["grpc_url"], provisioner=row["provisioner"],
        operations=driven.get(row["epoch"], 0), started_at=when(row["started_at"]), seen_at=when(seen),
        clock_ahead_s=round(ahead_s, 3) if is_me and ahead_s is not None else None,
    )  # fmt: skip


def stranded(found: Stranded) -> Body:
    return Body(
        kind=found.kind, subject=found.subject, brief=found.brief, message=found.words, since=when(found.since),
        hint=found.hint,
    )  # fmt: skip
