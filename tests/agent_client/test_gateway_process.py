"""run_gateway as the command line calls it: a process, its signals, its exit codes, its log."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import grpc
import pytest

from .conftest import ANYWHERE, ENROLMENT_URL
from .fake_cp import FakeControlPlane, soon

PROGRAM = """
import sys
from mcpg.agent.process import run_gateway
from mcpg.settings import Agent
sys.exit(run_gateway(Agent()))
"""


async def gateway(state: Path, **env: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROGRAM,
        env={**os.environ, "MCPG_STATE_DIR": str(state), **env},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def test_without_credentials_and_url_it_is_a_usage_error(tmp_path: Path) -> None:
    process = await gateway(tmp_path / "state")
    out, said = await soon(process.communicate())
    assert (process.returncode, out) == (2, b"")
    lines = said.decode().splitlines()
    assert [line.partition(":")[0] for line in lines] == ["error", "cause", "hint"]
    assert "--enrollment-url" in lines[2]
    assert "MCPG_ENROLLMENT_URL" in lines[2]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_cleanly_and_every_line_of_the_log_is_json(
    tmp_path: Path, cp: FakeControlPlane, number: int
) -> None:
    local = tmp_path / "gateway.yaml"
    local.write_text(ANYWHERE)
    process = await gateway(
        tmp_path / "state",
        MCPG_ENROLLMENT_URL=ENROLMENT_URL,
        MCPG_CP_GRPC=cp.url,
        MCPG_CONFIG=str(local),
        MCPG_JSON_LOGS="true",
    )
    session = await cp.session()
    await session.hear("heartbeat")
    process.send_signal(number)
    out, said = await soon(process.communicate())
    assert (process.returncode, out) == (0, b"")
    await soon(session.half_closed.wait())
    events = [json.loads(line)["event"] for line in said.splitlines()]
    assert events == ["listening", "registered", "session_opened", "draining", "deregistered", "stopped"]
    assert b"ENROL-abc" not in said
    assert session.token.encode() not in said


async def test_a_refused_enrolment_is_exit_4_and_three_lines(tmp_path: Path, cp: FakeControlPlane) -> None:
    cp.refuse_register = [grpc.StatusCode.PERMISSION_DENIED]
    local = tmp_path / "gateway.yaml"
    local.write_text(ANYWHERE)
    process = await gateway(
        tmp_path / "state", MCPG_ENROLLMENT_URL=ENROLMENT_URL, MCPG_CP_GRPC=cp.url, MCPG_CONFIG=str(local)
    )
    _, said = await soon(process.communicate())
    lines = said.decode().splitlines()
    assert process.returncode == 4
    assert lines[-3:] == [
        f"error: the control plane at {cp.url} refuses to enrol this gateway",
        "cause: not  [31mthis [0m token (PERMISSION_DENIED)",
        "hint: mint a new enrolment URL: mcpg-ctl token create -o name | mcpg-ctl gateway --enrollment-url-file -",
    ]
