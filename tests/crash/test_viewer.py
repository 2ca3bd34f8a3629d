"""kill -9 of the control plane in the middle of a ladder: who watches it sees every line, and none twice."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path

import pytest

from tests.bounds import BOUND_S
from tests.conftest import ROOT
from tests.crash.test_kill import Served, served

__all__ = ["served"]
pytestmark = pytest.mark.peer
CREATE = ("provision", "create", "--name", "edge-1", "--config", str(ROOT / "examples/echo.yaml"))


async def ctl(served: Served, *argv: str) -> Process:
    """`mcpg-ctl` as a process, asking *served*."""
    place = {f"MCPG_{name}": "default" for name in ("ORG", "WORKSPACE", "ENV")}
    environ = {"PATH": os.environ["PATH"], "HOME": str(served.state.parent), "MCPG_CP_URL": served.url, **place}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "mcpg.cli.main",
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
        env=environ,
    )


async def until(process: Process, wanted: str) -> list[str]:
    """The lines on stderr, down to the first that holds *wanted*."""
    assert process.stderr is not None
    found: list[str] = []
    async with asyncio.timeout(BOUND_S):
        while not found or wanted not in found[-1]:
            line = await process.stderr.readline()
            assert line, found
            found.append(line.decode().rstrip("\n"))
    return found


async def ended(process: Process) -> tuple[int, str, list[str]]:
    async with asyncio.timeout(BOUND_S):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode().splitlines()


async def connected(served: Served) -> None:
    """Until the control plane has an open connection, as the kernel tells it."""
    established, mine = "01", f":{served.http:04X}"
    async with asyncio.timeout(BOUND_S):
        while True:
            rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
            if any(row[1].endswith(mine) and row[3] == established for row in rows):
                return
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("phase", ["allocating", "applying"])
async def test_a_ladder_outlives_the_control_plane_that_it_watches(served: Served, phase: str) -> None:
    """Its lines are those that `operation attach` shows afterwards, and so is its result."""
    creating = await ctl(served, *CREATE)
    before = await until(creating, f" {phase} ")
    served.kill()
    before += await until(creating, "connection lost, resuming after event")
    await served.start()
    code, out, after = await ended(creating)
    operation = before[0].split()[1]
    attached = await ended(await ctl(served, "operation", "attach", operation))
    transitions = [line for line in (*before, *after) if f" {operation} " in line]
    assert (code, out, transitions) == attached
    assert (code, transitions[-1].split()[2], len(set(transitions))) == (0, "ready", len(transitions))


async def test_a_watch_outlives_it_too(served: Served) -> None:
    """Every line of the journal, once."""
    watching = await ctl(served, "operation", "watch", "-o", "jsonl")
    await connected(served)
    creating = await ctl(served, *CREATE, "--no-wait", "-o", "name")
    _, out, _ = await ended(creating)
    operation = out.strip()
    assert watching.stdout is not None
    found = [json.loads(await watching.stdout.readline())]
    served.kill()
    await until(watching, "connection lost, going on after event")
    await served.start()
    async with asyncio.timeout(BOUND_S):
        while found[-1]["state"] != "ready":
            found.append(json.loads(await watching.stdout.readline()))
    watching.terminate()
    await watching.wait()
    shown = json.loads((await ended(await ctl(served, "operation", "show", operation, "-o", "json")))[1])
    assert [each["seq"] for each in found] == [each["seq"] for each in shown["history"]]


async def test_a_watch_that_saw_nothing_yet_misses_nothing(served: Served) -> None:
    """The control plane comes back, and makes a gateway before the watch has found it again."""
    watching = await ctl(served, "operation", "watch", "-o", "name")
    await connected(served)
    served.kill()
    await until(watching, "connection lost, going on after event")
    await served.start()
    operation = (await ended(await ctl(served, *CREATE, "--no-wait", "-o", "name")))[1].strip()
    assert watching.stdout is not None
    assert (await asyncio.wait_for(watching.stdout.readline(), BOUND_S)).decode().strip() == operation
    watching.kill()
    await watching.wait()
