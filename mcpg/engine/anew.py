"""
A request that failed or was cancelled, made once more: a new operation that says whose retry it is. Called by steer.py.

What is asked is what the old operation was asked: of an update only what it was to change. It goes the way of any request, so
it is refused like any: a name that is taken since, a gateway that is gone or busy.
"""

from __future__ import annotations

from typing import Any

from mcpg.engine import supervision
from mcpg.engine.accept import scope_of
from mcpg.engine.core import Core
from mcpg.engine.operation import Operation
from mcpg.engine.requests import Anew, Publish, delete, publish
from mcpg.errors import Refused
from mcpg.store import reads

Row = dict[str, Any]
_FIELDS = ("replicas", "size", "region", "isolation_tier", "custom_hostname", "image_tag")
_KINDS = frozenset({"create", "update", "delete", "recover"})


def is_known(row: Row) -> bool:
    """Whether what the operation was asked can be asked again from what is known of it."""
    return row["kind"] in _KINDS


async def again(engine: Core, row: Row, *, actor: str, words: str = "") -> Operation:
    """
    The new operation, with *words* as the reason of its first line; or the one that this very retry began before and that
    still runs.
    """
    if row["kind"] == supervision.KIND:
        return await supervision.anew(engine, row, actor=actor, words=words)
    of = Anew(row["id"], row["kind"], row["instance_id"], words)
    if row["kind"] == "delete":
        return await delete(engine, scope_of(row), row["instance_id"], actor=actor, key=None, again=of)
    if not is_known(row):
        ways = {"adopt": f"mcpg-ctl instance adopt {row['instance_id']}"}
        raise Refused(
            f"operation {row['id']} ({row['kind']} {row['name']}) cannot be retried: it is {row['state']}",
            cause=f"nothing of what {row['kind']} was asked is left to be asked again",
            hint=ways.get(row["kind"], f"mcpg-ctl operation show {row['id']}"),
            operation_id=row["id"],
            state=row["state"],
            allowed=[],
        )
    return await publish(engine, scope_of(row), await _wish(engine, row), actor=actor, key=None, again=of)


async def _wish(engine: Core, row: Row) -> Publish:
    spec, before = row["spec"], row["previous"] or {}
    asked = {field: spec.get(field) for field in _FIELDS if spec.get(field) != before.get(field)}
    config = None
    if spec["config_version"] != before.get("config_version"):
        found = await reads.find_config(engine.db, row["instance_id"], spec["config_version"])
        config = found["raw_text"] if found else None
    return Publish(row["name"], config=config, **asked)
