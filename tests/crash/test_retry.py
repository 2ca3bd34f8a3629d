"""kill -9 in the middle of a pause between two attempts: the next process waits for the rest of it, and counts on."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from tests.bounds import BOUND_S
from tests.conftest import real
from tests.crash.test_kill import BASE, ECHO, Served, api, chain_holds, killed_at, replicas_running, settled

pytestmark = pytest.mark.peer


async def test_a_pause_between_attempts_outlives_kill_9(tmp_path: Path) -> None:
    """The gateway's program is away for a moment, as while a package is upgraded: attempts fail until it is back."""
    program = tmp_path / "mcpg"
    program.symlink_to(real("mcpg"))
    served = Served(tmp_path, gateway=program, MCPG_CP_APPLY_TIMEOUT_S=f"{BOUND_S:g}")
    await served.start()
    try:
        program.unlink()
        operation = await killed_at(served, 6, "POST", BASE, {"name": "edge-1", "config_toml": ECHO})
        await served.start()
        async with api(served) as client:
            found = (await client.get(f"/v1/operations/{operation}")).json()
            assert (found["state"], found["attempt"] >= 3) == ("applying", True)
            program.symlink_to(real("mcpg"))
            end = await settled(client, operation)
        lines = end["history"]
        assert (end["state"], chain_holds(lines)) == ("ready", True)
        retries = [line for line in lines if line["event"] == "retry"]
        assert [line["attempt"] for line in retries] == list(range(1, len(retries) + 1))
        for line, after in pairwise(lines):
            if line["event"] == "retry":
                pause = timedelta(seconds=line["data"]["delay_s"] - 0.002)  # both times are cut to milliseconds
                assert datetime.fromisoformat(after["at"]) - datetime.fromisoformat(line["at"]) >= pause
        assert len(replicas_running(served)) == 1
    finally:
        served.kill()


async def test_a_cancel_outlives_kill_9(tmp_path: Path) -> None:
    """Killed with the cancel just written: the next process takes everything back, and nothing of it is left."""
    served = Served(tmp_path)
    await served.start()
    try:
        operation = await killed_at(served, 3, "POST", BASE, {"name": "edge-1", "config_toml": ECHO})
        await served.start()
        async with api(served) as client:
            answer = await client.post(f"/v1/operations/{operation}/cancel", json={"reason": "never mind"})
            taken = answer.status_code == 200
            assert taken or answer.json()["details"]["state"] == "ready", "it was faster"
            served.kill()
        await served.start()
        async with api(served) as client:
            end = await settled(client, operation)
            assert end["state"] == ("cancelled" if taken else "ready")
            assert len(replicas_running(served)) == (0 if taken else 1)
            assert (await client.get("/v1/clusters")).json()[0]["gateways_running"] == (0 if taken else 1)
    finally:
        served.kill()
