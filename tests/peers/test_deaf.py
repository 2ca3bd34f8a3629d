"""A gateway that enrols and takes its config, and listens where nobody looks for it: no wait makes it serve."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import StartPlane, real
from tests.peers.conftest import echo, gateways_of, mcp_client, tool
from tests.ports import free_port

pytestmark = pytest.mark.peer

# As one that was overtaken by its config, or whose port was somebody else's for a moment: the first one that is started.
ONCE_DEAF = """#!/bin/sh
if [ -f "$MCPG_CONFIG" ] && mkdir {seen} 2>/dev/null; then
  sed -i 's/bind_address: 127.0.0.1:[0-9]*/bind_address: 127.0.0.1:{port}/' "$MCPG_CONFIG"
fi
exec {gateway} "$@"
"""


async def test_a_create_replaces_a_gateway_that_listens_elsewhere(start_local: StartPlane, tmp_path: Path) -> None:
    binary = tmp_path / "mcpg"
    binary.write_text(ONCE_DEAF.format(seen=tmp_path / "seen", port=free_port(), gateway=real("mcpg")))
    binary.chmod(0o700)
    async with start_local(gateway_bin=str(binary)) as plane:
        created = await plane.publish("edge-1", config_toml=tool("first"))
        assert created[-1]["state"] == "ready", created[-1]["message"]
        said = [event["message"] for event in created if "did not listen where it should" in event.get("message", "")]
        assert len(said) == 1, created
        async with mcp_client(created[-1]["coords"]["endpoints"][0]) as session:
            assert '"from":"first"' in await echo(session)
        assert len(gateways_of(tmp_path)) == 1
