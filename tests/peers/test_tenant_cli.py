"""The real `mcpg-cloud` with our API: exit codes and output."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest

from tests.bounds import BOUND_S
from tests.conftest import Plane, StartPlane, real
from tests.peers.conftest import environment, gateways_of, nothing_is_left, only_instance, tool

pytestmark = pytest.mark.peer


class Cloud:
    """`mcpg-cloud` in a home of its own."""

    def __init__(self, url: str, tmp_path: Path) -> None:
        self.url = url
        self.environ = environment(
            tmp_path / "home", MCPG_STATE_DIR=str(tmp_path / "cloud"), MCPG_ORG="default", MCPG_WORKSPACE="default",
            MCPG_ENV="default",
        )  # fmt: skip

    async def __call__(self, *argv: str, code: int = 0) -> str:
        """stdout and stderr of one command, which must exit with *code*."""
        done = await asyncio.to_thread(
            subprocess.run, [str(real("mcpg-cloud")), "--cp-url", self.url, *argv], env=self.environ, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=BOUND_S, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stdout
        return done.stdout


@pytest.mark.parametrize("slash", ["", "/"])
async def test_a_gateway_from_publish_to_delete(start_local: StartPlane, tmp_path: Path, slash: str) -> None:
    """Every command of a gateway's life exits 0 and prints what happened, also with a base URL that ends in a slash."""
    first, second, broken = tmp_path / "1.yaml", tmp_path / "2.yaml", tmp_path / "3.yaml"
    first.write_text(tool("first"))
    second.write_text(tool("second"))
    broken.write_text("mcp: [unclosed\n")
    async with start_local() as plane:
        cloud = Cloud(plane.url + slash, tmp_path)
        assert "default" in await cloud("whoami")

        said = await cloud("publish", "edge-1", "--config", str(first))
        instance = await only_instance(plane)
        for word in ("allocating", "applying", "ready", instance["instance_uid"], instance["addressable"][0]):
            assert word in said
        pids = gateways_of(tmp_path)
        said = await cloud("publish", "edge-1", "--config", str(second))
        assert "ready" in said
        assert (await only_instance(plane))["instance_uid"] == instance["instance_uid"]
        assert gateways_of(tmp_path) == pids

        refused = await cloud("publish", "edge-1", "--config", str(broken), code=1)
        assert "422" in refused
        assert "unparseable_config" in refused

        listed = await cloud("instances")
        assert instance["instance_uid"] in listed
        assert instance["addressable"][0] in listed
        assert "online" in listed
        versions = await cloud("versions", "edge-1")
        assert len([line for line in versions.splitlines() if line.strip()]) >= 2
        operations = await cloud("operations")
        assert "create" in operations
        assert "update" in operations

        said = await cloud("delete", instance["instance_uid"] if slash else "edge-1")
        assert "deleted" in said
        assert "delete" in await cloud("operations")
        await nothing_is_left(plane, tmp_path)


async def test_whoami_without_a_gateway(plane: Plane, tmp_path: Path) -> None:
    """An empty control plane answers every list with an empty one, which the client prints without complaint."""
    cloud = Cloud(plane.url, tmp_path)
    assert "default" in await cloud("whoami")
    await cloud("instances")
    await cloud("operations")
    assert "404" in await cloud("versions", "nobody", code=1)
