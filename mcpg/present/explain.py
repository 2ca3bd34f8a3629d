"""What the engine explains, as a body of the wire."""

from __future__ import annotations

import dataclasses

from mcpg.engine.explain import Explained
from mcpg.present.base import Row, transitions, when
from mcpg.present.operations import operation
from mcpg.store.clock import to_datetime
from mcpg.wire.explain import Explanation, PossibleMove, ReplicaEvidence


def explanation(found: Explained, names: dict[str, Row]) -> Explanation:
    """*names* is `fleet.cluster_names`."""
    row, lines = found.row, found.lines
    entered = next((x.at for x in reversed(lines) if x.source != x.dest), row["created_at"])
    last = transitions(lines)[-1] if lines else None
    return Explanation(
        at=to_datetime(found.now), operation=operation(row, names, lines or None).model_copy(update={"history": None}),
        since=to_datetime(entered), rest=found.kind, waits_for=found.waits_for, seen=found.seen,
        replicas=[ReplicaEvidence(**{**dataclasses.asdict(r), "since": when(r.since)}) for r in found.replicas],
        last=last, moves=[PossibleMove(**dataclasses.asdict(m)) for m in found.moves], attempts=found.attempts,
        next_attempt_at=when(row["next_attempt_at"]), last_failure=found.last_failure, lease=found.lease,
        lease_owner=row["lease_owner"] or "", lease_until=when(row["lease_until"]), paused=found.paused,
        blocked=found.blocked, next=found.next,
    )  # fmt: skip
