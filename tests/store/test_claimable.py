"""Operations that anybody may take: what nobody can read does not stand before the others."""

from __future__ import annotations

import pytest

from mcpg.machines import provision
from mcpg.store import reads
from mcpg.store.database import Database
from mcpg.store.journal import Also, Birth


async def free(db: Database, name: str, spec: str, since: int) -> None:
    columns = {
        "machine": "provision", "kind": "create", "org": "o", "workspace": "w", "environment": "e", "name": name,
        "instance_id": name, "spec": spec, "actor": "test", "body_hash": "",
    }  # fmt: skip
    await db.writer.submit(
        [
            Birth(provision.MACHINE, name, columns, "test"),
            Also("UPDATE operation SET lease_until=? WHERE id=?", (since, name), expect=1),
        ]
    )


@pytest.mark.parametrize("limit", [1, 2, 3, 9])
async def test_a_page_of_damaged_rows_hides_no_other(db: Database, limit: int) -> None:
    for number in range(4):
        await free(db, f"lost-{number}", "{", number)
    for number in range(3):
        await free(db, f"op-{number}", "{}", 10 + number)
    found = await reads.claimable(db, limit, runs_gateways=True)
    assert [row["id"] for row in found] == ["op-0", "op-1", "op-2"][:limit]
