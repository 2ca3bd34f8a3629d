"""
Which managed gateways run another program than the control plane here chose when it started. Called by status.py and
checks/machine.py.

The evidence is what both say of themselves: the chosen program its version, each agent the version it was enrolled with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from mcpg.errors import McpgError


class Other(NamedTuple):
    """A gateway and what it runs."""

    instance_uid: str
    name: str
    version: str


def chosen(record: Mapping[str, Any]) -> str:
    """What the program says now that the control plane of this *record* chose; "" where that is not known."""
    from mcpg.host.binary import find_gateway

    path, version = record.get("gateway_path"), str(record.get("gateway") or "")
    if not path or not version:
        return version if path == "" else ""
    try:
        return find_gateway(str(path), answer_s=1.5).version
    except McpgError:  # it has gone: what runs it was started before
        return version


def others(instances: Iterable[Mapping[str, Any]], version: str) -> list[Other]:
    """Those of which an agent that is online runs another *version*, once each; none where it is not known."""
    running = {
        Other(uid, str(each.get("name") or uid), str(agent.get("version")))
        for each in instances
        for agent in each.get("agents") or []
        for uid in [str(each.get("instance_uid"))]
        if each.get("managed") and agent.get("state") == "online" and agent.get("version")
    }
    return sorted(each for each in running if version and not version.endswith(f" {each.version}"))
