"""Where a managed replica runs and writes is said of one gateway, by whoever runs it."""

from __future__ import annotations

import os
from pathlib import Path

from tests.conftest import Plane


async def test_one_gateway_is_shown_with_its_pid_and_its_log(local_plane: Plane) -> None:
    ready = (await local_plane.publish("edge-1"))[-1]
    shown = (await local_plane.client.get("/v1/instances/edge-1")).json()
    [agent] = shown["agents"]
    os.kill(agent["pid"], 0)
    log = Path(agent["log"])
    assert log == local_plane.state_dir / "gateways" / shown["id"] / "replica-1" / "log"
    assert log.exists()
    [listed] = (await local_plane.instances())[0]["agents"]
    assert (listed["pid"], listed["log"]) == (None, ""), "a list looks at no directory"
    await local_plane.delete(ready["coords"]["instance_uid"])
