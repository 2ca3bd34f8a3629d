"""gateway-status: what is stored, what runs, what is wrong; with nothing there, with broken files, alive and dead."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import grpc
import pytest

from mcpg.agent import credentials, lkg
from mcpg.agent.events import command, running_path
from mcpg.agent.pb import agent_pb2 as pb
from mcpg.agent.status import status as status_of
from mcpg.settings import Agent

from .conftest import ANYWHERE, ENROLMENT_URL, Start
from .fake_cp import FakeControlPlane, echo_config, jwt, soon
from .test_credentials import some
from .test_gateway_process import gateway as process

NOBODY: dict[str, Any] = {
    "running": False, "stale": False, "pid": None, "written_at": None, "age_s": None, "version": None,
    "up_since": None, "state": None, "endpoint": None, "session_open_since": None, "next_retry_at": None,
    "last_error": None, "listener": None, "config": None, "config_refused": None, "dataplane": None,
}  # fmt: skip


def test_with_nothing_stored(tmp_path: Path) -> None:
    assert status_of(tmp_path / "none") == {
        "enrolled": False,
        "state_dir": str(tmp_path / "none"),
        "instance_id": None,
        "instance_uid": None,
        "registered_at": None,
        "issued_at": None,
        "expires_at": None,
        "expires_in_s": None,
        "expired": False,
        "endpoint": None,
        "lkg": None,
        "agent": NOBODY,
        "problems": [],
    }
    assert not (tmp_path / "none").exists()


def test_it_tells_all_but_the_secrets(tmp_path: Path) -> None:
    creds = some()
    credentials.write(tmp_path, creds)
    credentials.write_pairing(tmp_path, "http://cp:7844")
    credentials.record_registration(tmp_path, "edge-1", "2026-11-20T00:00:00Z")
    config = echo_config() + b"  federations: [{name: upstream, url: 'https://user:pa55word@host'}]\n"
    lkg.write(credentials.agent_dir(tmp_path), "h1", pb.ConfigBundle(config_toml=config))
    status = status_of(tmp_path)
    assert (status["enrolled"], status["instance_id"], status["instance_uid"]) == (True, "inst-1", "edge-1")
    assert (status["registered_at"], status["issued_at"]) == ("2026-11-20T00:00:00Z", "2026-11-22T10:15:17Z")
    assert 3590 < status["expires_in_s"] <= 3600
    assert not status["expired"]
    assert status["endpoint"] == "http://cp:7844"
    assert {**status["lkg"], "written_at": ""} == {
        "config_hash": "h1",
        "written_at": "",
        "tools": ["demo.echo"],
        "servers": ["upstream"],
    }
    assert (status["agent"], status["problems"]) == (NOBODY, [])
    said = json.dumps(status)
    for secret in (creds.instance_jwt, "s3cret", "pa55word", "expression"):
        assert secret not in said
    assert "s3cret" not in repr(creds)
    assert creds.instance_jwt not in repr(creds)


def test_expired_credentials_are_a_problem_with_a_way_on(tmp_path: Path) -> None:
    credentials.write(tmp_path, some(jwt(-5)))
    status = status_of(tmp_path)
    assert (status["expired"], status["expires_in_s"]) == (True, 0)
    assert [each["problem"] for each in status["problems"]] == ["the credentials have expired"]
    assert "mcpg-ctl token create" in status["problems"][0]["fix"]


def test_it_says_what_is_broken_and_how_to_mend_it_and_goes_on(tmp_path: Path) -> None:
    credentials.write(tmp_path, some())
    credentials.write_pairing(tmp_path, "http://cp:7844")
    creds = credentials.creds_path(tmp_path)
    creds.chmod(0o640)
    sealed = credentials.agent_dir(tmp_path) / lkg.FILE
    sealed.write_bytes(b"junk")
    running_path(tmp_path).write_text("{")
    status = status_of(tmp_path)
    assert (status["enrolled"], status["endpoint"], status["agent"]) == (False, "http://cp:7844", NOBODY)
    assert [(each["problem"].partition(":")[0], each["fix"].partition(";")[0]) for each in status["problems"]] == [
        (f"{creds} can be read by other users", f"chmod 600 {creds}"),
        (
            f"{running_path(tmp_path)} is corrupt",
            f"move it away (mv {running_path(tmp_path)} {running_path(tmp_path)}.bad) and enrol again with "
            "--enrollment-url",
        ),
        (f"{sealed} cannot be opened", f"rm {sealed}"),
    ]


@pytest.mark.parametrize("text", ['{"pid": 1}', '{"pid": "x", "started": "1"}', "{}", '{"dataplane": 3, "config": []}'])
def test_a_file_of_another_making_is_no_agent(tmp_path: Path, text: str) -> None:
    running_path(tmp_path).parent.mkdir()
    running_path(tmp_path).write_text(text)
    agent = status_of(tmp_path)["agent"]
    assert (agent["running"], agent["pid"], agent["state"]) == (False, None, None)


async def test_a_running_agent_is_shown_and_leaves_no_file(start: Start, cp: FakeControlPlane, tmp_path: Path) -> None:
    gateway = await start()
    session = await cp.session()
    session.push("h1", echo_config())
    await session.hear("config_ack")
    session.push("h2", b"nonsense: 1")
    await session.hear("config_ack")
    await gateway.event("config_refused")
    status = status_of(tmp_path / "state")
    agent = status["agent"]
    assert (agent["running"], agent["stale"], agent["pid"], agent["state"]) == (True, False, os.getpid(), "serving")
    assert (agent["listener"]["port"], agent["endpoint"], agent["last_error"]) == (gateway.port, cp.url, None)
    assert agent["session_open_since"] is not None
    assert agent["age_s"] is not None
    assert (agent["config"]["config_hash"], agent["config"]["tools"]) == ("h1", 1)
    assert agent["dataplane"] == {"kind": "own"}
    assert [each["fix"] for each in status["problems"]] == ["publish another"]
    session.end(grpc.StatusCode.UNAVAILABLE)
    await gateway.event("session_ended")
    assert status_of(tmp_path / "state")["agent"]["last_error"]["code"] == "UNAVAILABLE"
    await gateway.end()
    assert status_of(tmp_path / "state")["agent"] == NOBODY


async def test_a_killed_agent_is_recognised_by_its_start_time(tmp_path: Path, cp: FakeControlPlane) -> None:
    """Its file stays behind, and its pid may be somebody else's by now."""
    local, state = tmp_path / "gateway.yaml", tmp_path / "state"
    local.write_text(ANYWHERE)
    running = await process(state, MCPG_ENROLLMENT_URL=ENROLMENT_URL, MCPG_CP_GRPC=cp.url, MCPG_CONFIG=str(local))
    await (await cp.session()).hear("heartbeat")
    assert status_of(state)["agent"]["pid"] == running.pid
    running.send_signal(signal.SIGKILL)
    await soon(running.communicate())
    said = json.loads(running_path(state).read_text())
    running_path(state).write_text(json.dumps({**said, "pid": os.getpid()}))
    status = status_of(state)
    agent = status["agent"]
    assert (agent["running"], agent["stale"], agent["pid"], agent["state"]) == (False, True, None, None)
    assert (agent["session_open_since"], agent["listener"]) == (None, said["listener"])
    again = f"mcpg-ctl gateway --state-dir {state} --config {local} --cp-grpc {cp.url}"
    assert status["problems"] == [{"problem": "the agent did not stop cleanly and does not run", "fix": again}]
    assert "ENROL-abc" not in json.dumps(said)


def test_the_command_that_runs_it_again_holds_what_was_given_and_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can be pasted anywhere: paths are absolute."""
    monkeypatch.chdir(tmp_path)
    start = ["mcpg-ctl", "gateway", "--state-dir", str(tmp_path / "state")]
    assert command(Agent(state_dir=tmp_path / "state", enrollment_url=ENROLMENT_URL)) == start
    given = Agent(
        state_dir=tmp_path / "state",
        enrollment_url=ENROLMENT_URL,
        cp_grpc="https://user:pa55word@cp:7844/",
        instance_uid="edge-1",
        config="my gateway.yaml",
        exec="bin/mcpg",
        drain_timeout_s=0,
    )
    assert command(given) == [
        *start, "--exec", str(tmp_path / "bin/mcpg"), "--config", str(tmp_path / "my gateway.yaml"),
        "--cp-grpc", "https://cp:7844", "--instance-uid", "edge-1", "--drain-timeout-s", "0",
    ]  # fmt: skip
    assert command(Agent(state_dir=tmp_path / "state", exec="mcpg")) == [*start, "--exec", "mcpg"]


@pytest.mark.parametrize("of_old", [None, "mcpg-ctl gateway", [1]])
def test_a_killed_agent_that_did_not_say_how_it_was_run(tmp_path: Path, of_old: Any) -> None:
    state = tmp_path / "a state"
    running_path(state).parent.mkdir(parents=True)
    running_path(state).write_text(json.dumps({"pid": 1, "started": "0", "command": of_old}))
    assert [each["fix"] for each in status_of(state)["problems"]] == [f"mcpg-ctl gateway --state-dir '{state}'"]


async def test_who_holds_the_lock_is_found_without_the_file(start: Start, cp: FakeControlPlane, tmp_path: Path) -> None:
    await start()
    await cp.session()
    running_path(tmp_path / "state").unlink()
    agent = status_of(tmp_path / "state")["agent"]
    assert agent["running"]
    assert agent["pid"] == os.getpid()
