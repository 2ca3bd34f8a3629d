"""What was meant by a reference that nothing has: words for the refusal. Called by reads.py, when nothing was found."""

from __future__ import annotations

from mcpg.errors import NotFound
from mcpg.store.database import Database

_MOST = 20
_SUCH_IDS = "SELECT id,kind,name FROM operation WHERE substr(id,1,length(?1))=?1 ORDER BY created_at DESC LIMIT 20"
_NAMED = "SELECT id FROM operation WHERE name=? LIMIT 1"


_LAST = "SELECT deleted_at FROM instance WHERE name=? AND deleted_at IS NOT NULL ORDER BY deleted_at DESC LIMIT 1"


async def gateway_gone(db: Database, name: str) -> int | None:
    """When the last gateway of that name was deleted, in microseconds since the epoch; None when there was none."""
    found = await db.many(_LAST, name) if name else []
    return int(found[0]["deleted_at"]) if found else None


async def operation(db: Database, ref: str, shortest: int) -> None:
    """
    Raises NotFound where it is known what was meant: a beginning of an id of less than *shortest* characters, or the name of
    a gateway.
    """
    found = await db.many(_SUCH_IDS, ref) if 0 < len(ref) < shortest else []
    if found:
        number = f"{len(found)}{' or more' if len(found) == _MOST else ''}"
        many = f"{number} operations begin" if len(found) > 1 else "1 operation begins"
        names = ", ".join(f"{r['id']} ({r['kind']} {r['name']})" for r in found[:3])
        more = ", …" if len(found) > 3 else ""
        cause = f"at least {shortest} characters of an id are needed; {many} so: {names}{more}"
        raise NotFound(f"no operation {ref}", cause=cause, hint="give more of the id")
    if await db.many(_NAMED, ref):
        hint = f"mcpg-ctl operation list --name {ref}"
        raise NotFound(f"no operation {ref[:80]}", cause="that is the name of a gateway", hint=hint)
