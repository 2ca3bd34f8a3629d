"""
Gateways of one database run on one machine, from one directory, or a start is refused.

What runs is known by its files: a control plane that looks elsewhere does not find it, and starts it once more. So each
says in its row where it keeps them, and a start with another directory is refused while a control plane of this machine
lives, or gateways of this database lie there; and any start while one of another machine lives that runs gateways. Called
by loop.py before it adopts or drives anything; of two that start at once, `lease.agrees` refuses one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from mcpg.errors import Refused
from mcpg.store import reads, verify
from mcpg.store.database import Database
from mcpg.store.journal import LEASE_S
from mcpg.store.lease import Myself

Row = dict[str, Any]
NAMED: Final = 3  # gateways that a refusal names; the rest is counted


async def refuse_another_directory(db: Database, me: Myself, *, shared: bool) -> None:
    """Without heartbeats (not *shared*) nobody else lives: a lock says so. Raises Refused."""
    if not me.gateways_dir:
        return
    for row in await reads.replicas(db):
        silent = row["asked_at"] - row["seen_at"]  # both by the database's clock
        lives = shared and row["epoch"] != me.epoch and silent < LEASE_S * 1e6
        if not row["gateways_dir"]:
            continue
        if row["machine"] != me.machine:
            if lives:
                raise _elsewhere(row, silent / 1e6)
        elif row["gateways_dir"] != me.gateways_dir:
            if lives:
                raise _lives(me, row, silent / 1e6)
            names = await verify.managed(db)
            left = await asyncio.to_thread(_lie_in, Path(row["gateways_dir"]), names)
            if left:
                raise _lie(me, row, [names[i] for i in left])


def _lie_in(directory: Path, ids: Iterable[str]) -> list[str]:
    """Of the instances *ids*, those that have files in *directory*; what cannot be looked at has none."""
    found = []
    for instance_id in ids:
        try:
            if (directory / instance_id).is_dir():
                found.append(instance_id)
        except OSError:
            continue
    return found


def _lives(me: Myself, row: Row, ago_s: float) -> Refused:
    there = row["gateways_dir"]
    return Refused(
        f"another control plane on this machine keeps its gateways in {there}, this one would in {me.gateways_dir}",
        cause=f"{row['id']} (pid {row['pid']}, {row['http_url']}) was heard {ago_s:.0f} s ago; from two directories every"
        " gateway would run twice",
        hint=f"mcpg-ctl serve --gateways-dir {there} with the options you gave; or wait {LEASE_S:g} s if that one was killed",
    )


def _lie(me: Myself, row: Row, names: list[str]) -> Refused:
    there = row["gateways_dir"]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return Refused(
        f"gateways of this database are kept in {there}, this control plane would look for them in {me.gateways_dir}",
        cause=f"{row['id']} started {', '.join(names[:NAMED])}{more} from there, on this machine; from two directories every"
        " gateway would run twice",
        hint=f"mcpg-ctl serve --gateways-dir {there} with the options you gave",
    )


def _elsewhere(row: Row, ago_s: float) -> Refused:
    return Refused(
        f"a control plane on another machine, {row['host']}, runs the gateways of this database",
        cause=f"{row['id']} ({row['http_url']}) was heard {ago_s:.0f} s ago; neither could see or stop what the other starts",
        hint=f"mcpg-ctl serve --provisioner none with the options you gave; or wait {LEASE_S:g} s if that one is gone for good",
    )
