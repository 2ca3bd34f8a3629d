"""Orgs, workspaces and environments: ordinary rows, written through Tortoise at human speed."""

from __future__ import annotations

from typing import Any

from mcpg.store.clock import Clock, uuid7
from mcpg.store.database import run_tx
from mcpg.store.models import Environment, Org, Workspace

DEFAULT = "default"


async def ensure_default(clock: Clock) -> None:
    """default/default/default exist after this."""

    async def work(db: Any) -> None:
        now = clock()
        org = await Org.get_or_none(slug=DEFAULT, using_db=db)
        if org is None:
            org = await Org.create(id=uuid7(), slug=DEFAULT, name="Default", created_at=now, using_db=db)
        space = await Workspace.get_or_none(org_id=org.id, slug=DEFAULT, using_db=db)
        if space is None:
            space = await Workspace.create(
                id=uuid7(), org_id=org.id, slug=DEFAULT, name="Default", created_at=now, using_db=db
            )
        if not await Environment.filter(workspace_id=space.id, slug=DEFAULT).using_db(db).exists():
            await Environment.create(
                id=uuid7(), workspace_id=space.id, slug=DEFAULT, name="Default", created_at=now, using_db=db
            )

    await run_tx(work)
