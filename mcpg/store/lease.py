"""
Replicas and leases: which control plane drives which operation, as constant SQL. Called by mcpg/engine/leases.py.

A lease is `operation.lease_owner` (an epoch) and `lease_until`. A row that rests where an engine moves it on has a holder,
or is free: `lease_until` is 0 then, or when it was given back. Where nobody of ours moves it on, both are NULL. A lease
saves double work; what makes double work harmless are the version and the fence (journal.py).

The arithmetic: a lease lasts as long as its holder is heard, and 10 s more. A holder says every 3 s that it lives, so two
such heartbeats in a row may fail. It counts from before it asked, on a clock that nobody sets, and stops at 9 s: a second
before anybody may take its rows. Everybody looks once a second: what a killed replica drove goes on after 11 s at the
latest.

Two times are compared, the heartbeat and now, and both are the database's: `seen_at` is written, and silence is counted, in
its own SQL (`Database.clock_sql`). So the clocks of the machines may differ by anything; what they need to agree on is how
long a second is. `lease_until` is by the clock of whoever wrote it. It decides nothing: a claim compares it with what was
read, as it does the version, so that a renewal in between refuses the claim, and it says since when a free row is free.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mcpg.errors import Conflict, Refused
from mcpg.store.clock import short_id
from mcpg.store.journal import LEASE_S, Also

RENEW_S: Final = 3.0
TRUST_S: Final = LEASE_S - 1.0
SWEEP_S: Final = 1.0
AT_ONCE: Final = 32  # rows that one sweep takes: what is left is for the others, or for the next look
FORGET_S: Final = 7 * 86_400  # after which a silent replica is not listed any more
_REPLICA_ID: Final = re.compile(r"rep-[0-9a-z]{10}")


@dataclass(frozen=True, slots=True)
class Myself:
    """
    One start of one control plane. `id` belongs to its state directory, `epoch` to this start. `gateways_dir` is where it
    keeps its gateways' files on `machine`; "" when it runs none.
    """

    id: str
    epoch: str
    host: str
    pid: int
    version: str
    http_url: str
    grpc_url: str
    provisioner: str
    machine: str = ""
    gateways_dir: str = ""


def replica_id(state_dir: Path) -> str:
    """What this state directory's control plane is called, made up the first time. The caller holds the lock."""
    path = state_dir / "replica-id"
    try:
        found = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        found = ""
    if not _REPLICA_ID.fullmatch(found):
        found = short_id("rep-")
        keep_replica_id(state_dir, found)
    return found


def keep_replica_id(state_dir: Path, replica: str) -> None:
    (state_dir / "replica-id").write_text(replica + "\n", encoding="ascii")


class NotMyself(Conflict):
    """The row of this replica is another start's: its state directory was copied, or its row is gone."""


def introduce(me: Myself, at: int, until: int, clock_sql: str) -> tuple[Also, ...]:
    """
    This start of the replica begins, and takes at once what its predecessor drove: that one is dead, or it would hold the
    lock of the state directory.
    """
    return (
        Also(
            "UPDATE operation SET lease_owner=?,lease_until=? WHERE lease_until IS NOT NULL"
            " AND lease_owner IN (SELECT epoch FROM replica WHERE id=?)",
            (me.epoch, until, me.id),
        ),
        Also(
            "INSERT INTO replica(id,epoch,host,pid,version,http_url,grpc_url,provisioner,machine,gateways_dir,started_at,"
            f"seen_at) VALUES(?,?,?,?,?,?,?,?,?,?,?,{clock_sql}) ON CONFLICT(id) DO UPDATE SET epoch=excluded.epoch,"
            "host=excluded.host,pid=excluded.pid,version=excluded.version,http_url=excluded.http_url,"
            "grpc_url=excluded.grpc_url,provisioner=excluded.provisioner,machine=excluded.machine,"
            "gateways_dir=excluded.gateways_dir,started_at=excluded.started_at,seen_at=excluded.seen_at",
            (
                me.id, me.epoch, me.host, me.pid, me.version, me.http_url, me.grpc_url, me.provisioner, me.machine,
                me.gateways_dir, at,
            ),
        ),
        Also(f"DELETE FROM replica WHERE seen_at<{clock_sql}-{int(FORGET_S * 1e6)}"),  # noqa: S608
    )  # fmt: skip


def agrees(me: Myself, clock_sql: str) -> Also:
    """
    Changes nothing, and refuses its unit while another start was heard in the time of a lease that runs gateways on another
    machine or from another directory. So of two that start at once, one is refused.
    """
    return Also(
        "UPDATE replica SET seen_at=seen_at WHERE (machine<>? OR gateways_dir<>?) AND gateways_dir<>'' AND epoch<>?"  # noqa: S608
        f" AND seen_at>{clock_sql}-{int(LEASE_S * 1e6)}",
        (me.machine, me.gateways_dir, me.epoch),
        expect=0,
        refuse=lambda: Refused(
            "another control plane started a moment earlier, with gateways on another machine or in another directory",
            cause=f"this one would keep them in {me.gateways_dir} of {me.host}; from two places every gateway would run twice",
            hint="mcpg-ctl status names it; give both the same --gateways-dir DIR, or this one --provisioner none",
        ),
    )


def take_all(epoch: str, until: int) -> Also:
    """Whoever drove them: for a control plane that has its database to itself."""
    return Also(
        "UPDATE operation SET lease_owner=?,lease_until=? WHERE lease_until IS NOT NULL AND finished_at IS NULL",
        (epoch, until),
    )


def renew(me: Myself, until: int, clock_sql: str) -> tuple[Also, ...]:
    """The heartbeat: this replica lives, and goes on with what is its own. Raises NotMyself, having written nothing."""
    return (
        Also(
            f"UPDATE replica SET seen_at={clock_sql} WHERE id=? AND epoch=?",  # noqa: S608
            (me.id, me.epoch),
            expect=1,
            refuse=lambda: NotMyself("another control plane uses this replica's identity", cause=f"replica {me.id}"),
        ),
        Also("UPDATE operation SET lease_until=? WHERE lease_owner=? AND lease_until IS NOT NULL", (until, me.epoch)),
    )


def leave(me: Myself, at: int) -> tuple[Also, ...]:
    """A planned stop: what it drove is free since *at*, and what is connected to it is not connected any more."""
    return (
        Also(
            "UPDATE operation SET lease_owner=NULL,lease_until=? WHERE lease_owner=? AND lease_until IS NOT NULL",
            (at, me.epoch),
        ),
        Also("UPDATE replica SET seen_at=0 WHERE id=? AND epoch=?", (me.id, me.epoch)),
    )


def claim(row: dict[str, Any], epoch: str, until: int) -> Also:
    """Take a row that was seen free, or with a silent holder; refused when it has moved, or somebody was faster."""
    return Also(
        "UPDATE operation SET lease_owner=?,lease_until=? WHERE id=? AND version=? AND lease_until=?",
        (epoch, until, row["id"], row["version"], row["lease_until"]),
        expect=1,
        refuse=lambda: Conflict(f"{row['id']} was taken or moved by somebody else a moment earlier"),
    )
