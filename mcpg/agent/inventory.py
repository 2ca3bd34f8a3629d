"""
What a gateway config says, without serving it: where to listen, and what it offers by name. Never a value, so no secret.

Called by mcpg/agent/child.py, whose configs only the real gateway understands wholly, and by status.py.
"""

from __future__ import annotations

from typing import Any, Final

from mcpg import errors
from mcpg.agent.dataplane_config import Listener
from mcpg.engine import config

OFFERED: Final = ("tools", "prompts", "resources", "resource_templates")


def listener_of(config_text: str) -> Listener:
    """Where `gateway.server` says to listen; port 0 of 127.0.0.1 where it does not. Raises errors.BadConfig."""
    keys = config.server_keys(config_text)
    bind = str(keys.get("bind_address") or "127.0.0.1:0")
    host, _, port = bind.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise errors.BadConfig("gateway.server.bind_address must be HOST:PORT", cause=f'it is "{bind}"')
    paths = str(keys.get("mcp_path") or "/mcp"), str(keys.get("health_path") or "/health")
    return Listener(host.removeprefix("[").removesuffix("]"), int(port), *paths)


def offered(config_text: str) -> dict[str, list[str]] | None:
    """
    The names of what a config offers, by kind; `servers` are the upstreams it federates. None where it has no `mcp`.

    Raises errors.BadConfig where it does not parse; what is named wrongly is left out, for the gateway judges that.
    """
    mcp = config.parse(config_text).get("mcp")
    if not isinstance(mcp, dict):
        return None
    capabilities = mcp.get("capabilities")
    found = {kind: _names(capabilities.get(kind)) if isinstance(capabilities, dict) else [] for kind in OFFERED}
    found["servers"] = _names(mcp.get("federations"))
    return {kind: names for kind, names in found.items() if names or kind == "tools"}


def _names(listed: Any) -> list[str]:
    each = listed if isinstance(listed, list) else []
    found = [item.get("name") or item.get("uri") for item in each if isinstance(item, dict)]
    return [name for name in found if isinstance(name, str)]
