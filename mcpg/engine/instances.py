"""
Which gateway is meant: by its uid, its name, or the beginning of its uid. Called by mcpg/api/instances.py.

A uid is what somebody else's gateway may choose, a name is ours: where one word is both, of two gateways, neither is guessed.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

from mcpg.engine.core import Core
from mcpg.errors import NotFound, Usage
from mcpg.store import missed, reads

Row = dict[str, Any]
_LOOKED_THROUGH = 2000  # names, for those that are like a wrong one: the newest gateways'


async def find(engine: Core, ref: str) -> Row:
    """One that lives. Raises NotFound with the names that are like it, or Usage naming the candidates."""
    found = await reads.find_instances_named(engine.db, ref)
    if not found:
        raise await _not_found(engine, ref)
    if len(found) > 1:
        is_whole = any(ref in (row["instance_uid"], row["live_name"]) for row in found)
        ids = " or ".join(row["id"] for row in found)
        raise Usage(
            f"{ref[:80]} may be any of {len(found)} gateways",
            cause=", ".join(f"{row['instance_uid']} ({row['name'] or 'no name'})" for row in found),
            hint=f"say which: {ids}" if is_whole else "give its name, or more of its uid",
            candidates=[row["instance_uid"] for row in found],
        )
    return found[0]


async def _not_found(engine: Core, ref: str) -> NotFound:
    was = await reads.find_instance_by_uid(engine.db, ref)
    if was is not None:
        name = f"; it was {was['name']}" if was["name"] else ""
        return NotFound(f"no gateway {ref[:80]}", cause=f"it was deleted{name}", hint="mcpg-ctl instance list")
    gone_at = await missed.gateway_gone(engine.db, ref)
    if gone_at is not None:
        since = max(0, engine.clock() - gone_at) // 1_000_000
        ago = f"{since} s" if since < 120 else f"{since // 60} min" if since < 7200 else f"{since // 3600} h"
        hint = f"mcpg-ctl operation list --name {ref}"
        return NotFound(f"no gateway {ref[:80]}", cause=f"the last of that name is gone since {ago}", hint=hint)
    known = [(row["name"], row["instance_uid"]) for row in await reads.instance_names(engine.db, _LOOKED_THROUGH)]
    near = [name or uid for name, uid in known if ref and uid.startswith(ref)]  # too short to stand for it
    near += get_close_matches(ref[:80], [word for names in known for word in names if word], n=3, cutoff=0.6)
    meant = ", ".join(list(dict.fromkeys(near))[:3])
    return NotFound(
        f"no gateway {ref[:80]}",
        cause=f"no name or uid here is that, and no uid begins with it (at least {reads.SHORTEST_REF} characters)",
        hint=f"did you mean: {meant}" if meant else "names and uids: mcpg-ctl instance list -o wide",
    )
