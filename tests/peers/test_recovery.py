"""Real gateways that are killed, or that end at once each time: brought back, watched, braked; the journal says how."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mcpg.machines.recovery import BRAKE
from tests.conftest import Plane, StartPlane, real
from tests.peers.conftest import (
    echo,
    eventually,
    gateways_of,
    mcp_client,
    nothing_is_left,
    only_instance,
    started_at,
    tool,
)

pytestmark = pytest.mark.peer


async def recovery(plane: Plane) -> dict[str, Any]:
    """The newest, with its history; {} before the first."""
    found = (await plane.client.get("/v1/operations?kind=recover&history=true")).raise_for_status().json()
    return dict(found[0]) if found else {}


async def rests_in(plane: Plane, *states: str, ends: int = 0) -> dict[str, Any]:
    async def there() -> dict[str, Any] | None:
        found = await recovery(plane)
        counted = sum(line["event"] in ("ended", "fail", "deadline") for line in found.get("history", ()))
        return found if found.get("state") in states and counted >= ends else None

    return dict(await plane.until(there, f"the recovery is {' or '.join(states)}"))


async def test_a_gateway_that_is_killed_comes_back_on_its_port_with_its_identity(
    start_local: StartPlane, tmp_path: Path
) -> None:
    async with start_local(recovery_soak_s=0.5) as plane:
        created = await plane.publish("edge-1", config_toml=tool("first"))
        (pid,) = gateways_of(tmp_path)
        url, before = created[-1]["coords"]["endpoints"][0], (await only_instance(plane))["agents"][0]["id"]
        os.kill(pid, signal.SIGKILL)
        operation = await rests_in(plane, "recovered")
        (again,) = gateways_of(tmp_path)
        assert again != pid
        lines = operation["history"]
        assert [line["event"] for line in lines] == ["request", "accept", "due", "applied", "confirmed", "held"]
        assert lines[0]["reason"] == f"replica 1 (pid {pid}) ended, signal 9"
        assert lines[3]["message"] == f"replica 1: process {again} started"
        instance = await only_instance(plane)
        assert (instance["state"], instance["operation_id"]) == ("online", "")
        assert (instance["addressable"][0], instance["agents"][0]["id"]) == (url, before)
        async with mcp_client(url) as session:
            assert '"from":"first"' in await echo(session)
        assert (await plane.delete(instance["instance_uid"]))[-1]["_event"] == "deleted"
        await nothing_is_left(plane, tmp_path)


async def test_one_replica_of_three_that_is_killed_is_brought_back_and_the_others_are_left_alone(
    start_local: StartPlane, tmp_path: Path
) -> None:
    async with start_local(recovery_soak_s=0.5) as plane:
        await plane.publish("edge-1", replicas=3, config_toml=tool("first"))
        pids = {pid: started_at(pid) for pid in gateways_of(tmp_path)}
        killed = min(pids)
        os.kill(killed, signal.SIGKILL)
        await rests_in(plane, "recovered")
        now = {pid: started_at(pid) for pid in gateways_of(tmp_path)}
        assert len(now) == 3
        assert pids.keys() - now.keys() == {killed}
        assert all(now[pid] == pids[pid] for pid in pids.keys() & now.keys())


async def test_a_kill_while_it_is_watched_counts(start_local: StartPlane, tmp_path: Path) -> None:
    async with start_local(recovery_soak_s=600, recovery_pause_s=0.1) as plane:
        await plane.publish("edge-1", config_toml=tool("first"))
        for ends in range(BRAKE):
            (pid,) = await eventually(lambda: _running(tmp_path), "a gateway runs")
            os.kill(pid, signal.SIGKILL)
            await rests_in(plane, "watching" if ends < BRAKE - 1 else "paused", ends=ends)
        assert gateways_of(tmp_path) == []
        resumed = await plane.client.post(f"/v1/operations/{(await recovery(plane))['id']}/resume", json={})
        assert resumed.status_code == 200, resumed.text
        await rests_in(plane, "watching")
        assert len(gateways_of(tmp_path)) == 1


async def _running(tmp_path: Path) -> list[int]:
    return gateways_of(tmp_path)


async def test_a_gateway_that_ends_at_once_each_time_is_braked_and_mended_by_a_publish(
    start_local: StartPlane, tmp_path: Path, script: Callable[[str], str]
) -> None:
    """Starts are counted by the program itself; once braked there are no more, and the engine does nothing."""
    launches, doomed = tmp_path / "launches", tmp_path / "doomed"
    binary = script(
        f'echo "$$" >> {launches}\n[ -e {doomed} ] && {{ echo "no licence" >&2; exit 3; }}\nexec {real("mcpg")} "$@"'
    )
    async with start_local(gateway_bin=binary, recovery_soak_s=0.5, recovery_pause_s=0.1) as plane:
        await plane.publish("edge-1", config_toml=tool("first"))
        assert len(launches.read_text().splitlines()) == 1
        doomed.touch()
        (pid,) = gateways_of(tmp_path)
        os.kill(pid, signal.SIGKILL)
        operation = await rests_in(plane, "paused")
        assert len(launches.read_text().splitlines()) == 1 + BRAKE - 1
        last = operation["history"][-1]
        assert "no licence" in last["message"]
        assert last["data"]["code"] == "gateway_exited"
        assert f"operation resume {operation['id']}" in last["data"]["hint"]
        assert plane.engine._drivers == {}, "nobody drives a paused recovery"
        doomed.unlink()
        mended = await plane.publish("edge-1", config_toml=tool("second"))
        assert mended[-1]["_event"] == "ready", mended[-1]["message"]
        assert (await recovery(plane))["state"] == "superseded"
        assert len(launches.read_text().splitlines()) == 1 + BRAKE


async def test_a_recovery_that_is_cancelled_leaves_the_gateway_down_and_says_so(
    start_local: StartPlane, tmp_path: Path
) -> None:
    async with start_local(recovery_soak_s=600, recovery_pause_s=600) as plane:
        await plane.publish("edge-1", config_toml=tool("first"))
        for _ in range(2):  # the second time there is a pause to be cancelled in
            (pid,) = await eventually(lambda: _running(tmp_path), "a gateway runs")
            os.kill(pid, signal.SIGKILL)
            operation = await rests_in(plane, "watching", "waiting", ends=_)
        operation = await rests_in(plane, "waiting")
        cancelled = await plane.client.post(f"/v1/operations/{operation['id']}/cancel", json={"reason": "too loud"})
        assert cancelled.status_code == 200, cancelled.text
        instance = await only_instance(plane)
        assert (instance["state"], instance["operation_id"]) == ("departed", "")
        assert instance["reason"].startswith("left down, cancelled by local: too loud; it is started again by:")
        assert gateways_of(tmp_path) == []
        again = await plane.client.post(f"/v1/operations/{operation['id']}/retry", json={})
        assert again.status_code == 200, again.text
        await rests_in(plane, "watching")
        assert (await only_instance(plane))["reason"] == ""
        assert len(gateways_of(tmp_path)) == 1
