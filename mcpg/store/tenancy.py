"""Orgs, workspaces and environments: ordinary rows, written through Tortoise at human speed."""

from __future__ import annotations

from typing import Any

from tortoise.exceptions import IntegrityError

from mcpg.store.clock import Clock, uuid7
from mcpg.store.database import Database
from mcpg.store.models import Environment, Org, Workspace

DEFAULT = "default"


async def ensure_default(db: Database, clock: Clock) -> None:
    """default/default/default exist after this."""

    async def work(tx: Any) -> None:
        now = clock()
        org = await Org.get_or_none(slug=DEFAULT, using_db=tx)
        if org is None:
            org = await Org.create(id=uuid7(), slug=DEFAULT, name="Default", created_at=now, using_db=tx)
        space = await Workspace.get_or_none(org_id=org.id, slug=DEFAULT, using_db=tx)
        if space is None:
            space = await Workspace.create(
                id=uuid7(), org_id=org.id, slug=DEFAULT, name="Default", created_at=now, using_db=tx
            )
        if not await Environment.filter(workspace_id=space.id, slug=DEFAULT).using_db(tx).exists():
            await Environment.create(
                id=uuid7(), workspace_id=space.id, slug=DEFAULT, name="Default", created_at=now, using_db=tx
            )

    try:
        await db.run_tx(work)
    except IntegrityError:  # another replica made one of them meanwhile: now it is there
        await db.run_tx(work)
