"""Our gateway, whole: real gRPC to a fake control plane, real files, real MCP client."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from mcp import Client

from mcpg import errors
from mcpg.agent import child_record, credentials
from mcpg.agent.events import log_line
from mcpg.agent.gateway import run
from mcpg.agent.gateway_link import ANOTHER, Timing
from mcpg.agent.pb import agent_pb2 as pb
from mcpg.agent.sessions import Close, Session, Sessions
from mcpg.agent.status import status as status_of
from mcpg.host.processes import MARKER, launch
from mcpg.settings import Agent

from .conftest import ANYWHERE, ENROLMENT_URL, QUICK, Start
from .fake_cp import FakeControlPlane, echo_config, jwt, soon, stored


async def test_it_enrols_beats_reports_acks_and_serves(start: Start, cp: FakeControlPlane, tmp_path: Path) -> None:
    gateway = await start(instance_uid="edge-1")
    request = await cp.registration()
    assert (request.bootstrap_token, request.instance_uid) == ("ENROL-abc", "edge-1")
    assert list(request.capabilities) == ["control_plane_client"]
    assert request.host.os == "linux"
    assert [(at.host, at.port, at.path_prefix) for at in request.addressable_endpoints] == [
        ("127.0.0.1", gateway.port, "/mcp")
    ]
    assert "mcpg-instance-token" not in cp.register_metadata

    session = await cp.session()
    creds = credentials.read(tmp_path / "state")
    assert creds is not None
    assert session.token == creds.instance_jwt
    assert session.peer_agent.startswith("mcpg-ctl/")
    beats = [await session.hear("heartbeat") for _ in range(3)]
    assert [beat.seq for beat in beats] == [1, 2, 3]
    assert {beat.health for beat in beats} == {"ok"}

    session.push("h1", echo_config())
    ack = await session.hear("config_ack")
    assert (ack.config_hash, ack.applied_state, ack.error) == ("h1", "active", "")
    assert ack.applied_at.seconds > 0
    reports = [await session.hear("status_report") for _ in range(2)]
    assert reports[-1].config_hash == "h1"

    async with Client(gateway.mcp_url) as client:
        result = await client.call_tool("demo.echo", {"text": "hello"})
    assert result.structured_content == {"echo": {"text": "hello"}, "from": "pushed"}
    assert json.loads(result.content[0].text) == result.structured_content


async def test_stored_credentials_are_used_again_without_the_url(
    start: Start, cp: FakeControlPlane, tmp_path: Path
) -> None:
    token = stored(tmp_path / "state")
    await start(url="")
    assert (await cp.session()).token == token
    assert cp.registered == 0


async def test_a_url_that_is_not_needed_is_said_to_be_kept(start: Start, cp: FakeControlPlane, tmp_path: Path) -> None:
    stored(tmp_path / "state")
    gateway = await start()
    await cp.session()
    told = [fields for name, fields in gateway.told if name == "already_enrolled"]
    kept = {
        "note": "the enrolment URL is not used now, and kept for when these credentials are refused",
        "hint": "for another gateway on this machine: --state-dir PATH",
    }
    assert told == [{"instance_id": "inst-1", "since": "2026-01-01T00:00:00Z", **kept}]
    assert cp.registered == 0
    await gateway.end()
    credentials.record_registration(tmp_path / "state", "edge-1", "2025-12-31T00:00:00Z")
    again = await start()
    assert again.told[0] == (
        "already_enrolled",
        {"instance_id": "inst-1", "instance_uid": "edge-1", "since": "2025-12-31T00:00:00Z", **kept},
    )


async def test_a_url_that_is_needed_is_used_without_a_word(start: Start, cp: FakeControlPlane, tmp_path: Path) -> None:
    stored(tmp_path / "state", ttl_s=10)
    gateway = await start()
    await gateway.event("registered")
    assert "already_enrolled" not in [name for name, _ in gateway.told]


@pytest.mark.parametrize("words", ANOTHER)
async def test_who_is_turned_away_again_says_that_another_uses_its_identity(
    start: Start, cp: FakeControlPlane, words: str
) -> None:
    gateway = await start()
    for _ in range(3):
        (await cp.session()).end(grpc.StatusCode.ABORTED, f"{words}: its credentials are newer")
        await gateway.event("session_ended")
    await cp.session()
    said = [fields for name, fields in gateway.told if name == "identity_shared"]
    assert said == [
        {
            "reason": "another gateway uses this identity, and each turns the other away",
            "times": times,
            "hint": "for another gateway on this machine: --state-dir PATH",
        }
        for times in (2, 3)
    ]
    assert " warning identity_shared " in log_line("identity_shared", said[0], as_json=False)


def test_these_are_the_words_of_our_own_control_plane() -> None:
    sessions = Sessions(None)  # type: ignore[arg-type]  # nothing is read
    older, newer = (Session("agent", "instance", generation, 0) for generation in (1, 1))
    sessions.add(older)
    sessions.add(newer)
    close = older.outbox.get_nowait()
    assert isinstance(close, Close)
    assert (close.words, sessions.clone().what) == ANOTHER


async def test_a_data_plane_without_its_agent_is_ended_before_ours_serves(
    start: Start, cp: FakeControlPlane, tmp_path: Path
) -> None:
    """The agent that had it, by --exec, was killed. Until then it is seen, by its record alone."""
    state = tmp_path / "state"
    directory = child_record.directory(state)
    directory.mkdir(parents=True)
    pid = await launch(
        ["sleep", "600"],
        record=directory / "record",
        log=directory / "log",
        log_offset=0,
        cwd=directory,
        env={**os.environ, MARKER: child_record.marker(state)},
    )
    problem = {"problem": f"a data plane, pid {pid}, serves without an agent", "fix": f"kill {pid}"}
    assert status_of(state)["problems"] == [problem]
    gateway = await start()
    assert [name for name, _ in gateway.told][:2] == ["dataplane_replaced", "listening"]
    assert gateway.told[0][1] == {"pid": pid}
    assert child_record.living(state) is None


async def test_unauthenticated_drops_the_credentials_and_enrols_again(
    start: Start, cp: FakeControlPlane, tmp_path: Path
) -> None:
    token = stored(tmp_path / "state")
    cp.refuse_channel = [grpc.StatusCode.UNAUTHENTICATED]
    cp.refuse_register = [grpc.StatusCode.UNAVAILABLE] * 1000
    gateway = await start()
    assert (await cp.session()).token == token
    assert await gateway.event("credentials_rejected") == {"kept": False}
    await gateway.event("register_failed")
    assert credentials.read(tmp_path / "state") is None
    cp.refuse_register.clear()
    assert (await cp.registration()).bootstrap_token == "ENROL-abc"
    again = (await cp.session()).token
    assert again != token
    await gateway.event("session_opened")
    creds = credentials.read(tmp_path / "state")
    assert creds is not None
    assert creds.instance_jwt == again


async def test_the_server_s_status_is_heard_while_we_are_talking(start: Start, cp: FakeControlPlane) -> None:
    """grpc.aio turns it into INTERNAL when a write fails as the call ends, about once in five with these heartbeats."""
    gateway = await start(timing=replace(QUICK, heartbeat_s=0.0005, status_s=0.0005))
    heard = set()
    for _ in range(40):
        session = await cp.session()
        await session.hear("heartbeat")
        session.end(grpc.StatusCode.UNAUTHENTICATED)
        heard.add((await gateway.event("session_ended"))["code"])
    assert heard == {"UNAUTHENTICATED"}


async def test_unauthenticated_without_url_keeps_the_credentials(
    start: Start, cp: FakeControlPlane, tmp_path: Path
) -> None:
    token = stored(tmp_path / "state")
    cp.refuse_channel = [grpc.StatusCode.UNAUTHENTICATED]
    gateway = await start(url="")
    rejected = await gateway.event("credentials_rejected")
    assert rejected["kept"] is True
    assert "--enrollment-url" in rejected["hint"]
    assert [(await cp.session()).token, (await cp.session()).token] == [token, token]


@pytest.mark.parametrize("code", ["PERMISSION_DENIED", "NOT_FOUND", "FAILED_PRECONDITION", "INTERNAL", "UNAVAILABLE"])
async def test_any_other_refusal_is_tried_again_with_the_same_credentials(
    start: Start, cp: FakeControlPlane, tmp_path: Path, code: str
) -> None:
    token = stored(tmp_path / "state")
    cp.refuse_channel = [grpc.StatusCode[code]]
    gateway = await start()
    assert [(await cp.session()).token, (await cp.session()).token] == [token, token]
    assert (await gateway.event("session_ended"))["code"] == code
    assert cp.registered == 0


async def test_a_session_cut_midway_is_opened_again_and_counts_from_one(start: Start, cp: FakeControlPlane) -> None:
    await start()
    first = await cp.session()
    await first.hear("heartbeat")
    first.end(grpc.StatusCode.UNAVAILABLE)
    second = await cp.session()
    assert (await second.hear("heartbeat")).seq == 1
    assert second.token == first.token


@pytest.mark.parametrize(("ttl_s", "registers"), [(-60, 1), (200, 1), (310, 0)])
async def test_a_token_near_its_end_is_renewed_before_the_session(
    start: Start, cp: FakeControlPlane, tmp_path: Path, ttl_s: float, registers: int
) -> None:
    """The window is max(300 s, 3 × heartbeat)."""
    token = stored(tmp_path / "state", ttl_s=ttl_s)
    await start()
    session = await cp.session()
    assert cp.registered == registers
    assert (session.token != token) == bool(registers)


async def test_a_slow_heartbeat_widens_the_window(start: Start, cp: FakeControlPlane, tmp_path: Path) -> None:
    stored(tmp_path / "state", ttl_s=550)
    await start(timing=Timing(heartbeat_s=200, status_s=200))
    await cp.session()
    assert cp.registered == 1


async def test_a_refused_renewal_falls_back_to_the_token_that_still_is_good(
    start: Start, cp: FakeControlPlane, tmp_path: Path
) -> None:
    """A one-shot URL that was consumed long ago must not lock a living gateway out."""
    token = stored(tmp_path / "state", ttl_s=200)
    cp.refuse_register = [grpc.StatusCode.PERMISSION_DENIED]
    await start()
    assert (await cp.session()).token == token


async def test_register_is_tried_until_it_works_with_one_uid(start: Start, cp: FakeControlPlane) -> None:
    cp.refuse_register = [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED]
    gateway = await start()
    uids = {(await cp.registration()).instance_uid for _ in range(3)}
    await cp.session()
    assert len(uids) == 1
    failed = await gateway.event("register_failed")
    assert failed["code"] == "UNAVAILABLE"
    assert "\x1b" not in failed["reason"]


@pytest.mark.parametrize("code", ["PERMISSION_DENIED", "UNAUTHENTICATED", "FAILED_PRECONDITION", "INVALID_ARGUMENT"])
async def test_a_refused_enrolment_ends_it_and_names_the_next_command(
    tmp_path: Path, cp: FakeControlPlane, code: str
) -> None:
    """Nothing that it could send again would be answered otherwise."""
    cp.refuse_register = [grpc.StatusCode[code]] * 2
    local = tmp_path / "gateway.yaml"
    local.write_text(ANYWHERE)
    settings = Agent(state_dir=tmp_path / "state", cp_grpc=cp.url, enrollment_url=ENROLMENT_URL, config=str(local))
    told: list[str] = []
    with pytest.raises(errors.Forbidden) as caught:
        await soon(run(settings, stop=asyncio.Event(), on_event=lambda name, _: told.append(name), timing=QUICK))
    assert (caught.value.what, caught.value.cause) == (
        f"the control plane at {cp.url} refuses to enrol this gateway",
        f"not  [31mthis [0m token ({code})",
    )
    assert "mcpg-ctl token create -o name" in caught.value.hint
    assert told == ["listening", "register_refused", "stopped"]
    assert cp.goodbyes == []
    assert not (tmp_path / "state/gateway-agent/running.json").exists()


async def test_rejected_credentials_and_a_refused_enrolment_end_it(cp: FakeControlPlane, start: Start) -> None:
    """A gateway that was running, and whose control plane knows neither it nor its token any more."""
    gateway = await start()
    session = await cp.session()
    cp.refuse_register = [grpc.StatusCode.PERMISSION_DENIED]
    session.end(grpc.StatusCode.UNAUTHENTICATED)
    with pytest.raises(errors.Forbidden):
        await soon(gateway.task)


async def test_the_uid_survives_a_restart_before_enrolment(start: Start, cp: FakeControlPlane) -> None:
    cp.refuse_register = [grpc.StatusCode.UNAVAILABLE] * 3
    first = await start()
    uid = (await cp.registration()).instance_uid
    await first.end()
    await start()
    assert (await cp.registration()).instance_uid == uid


async def test_a_rotated_token_is_stored_and_used_from_the_next_session_on(
    start: Start, cp: FakeControlPlane, tmp_path: Path
) -> None:
    gateway = await start()
    session = await cp.session()
    rotated = jwt(7200, n="rotated")
    session.say(credential_rotation=pb.CredentialRotation(client_cert_pem="ignored: no token"))
    session.say(credential_rotation=pb.CredentialRotation(instance_jwt=rotated))
    await gateway.event("credentials_rotated")
    session.push("h", echo_config())
    assert (await session.hear("config_ack")).config_hash == "h"  # the session goes on
    creds = credentials.read(tmp_path / "state")
    assert creds is not None
    assert (creds.instance_jwt, creds.client_cert_pem, creds.payload_dek_version) == (rotated, "", 1)
    session.end(grpc.StatusCode.UNAVAILABLE)
    assert (await cp.session()).token == rotated
    assert cp.registered == 1


async def test_commands_are_answered_not_obeyed_and_quarantine_is_told(start: Start, cp: FakeControlPlane) -> None:
    gateway = await start()
    session = await cp.session()
    session.say(command=pb.Command(command_id="c1", custom="reboot"))
    result = await session.hear("command_result")
    assert (result.command_id, result.success, result.error) == ("c1", False, "commands are not supported")
    session.say(diagnostic_request=pb.DiagnosticRequest(command_id="d1"))
    assert (await session.hear("diagnostic_result")).command_id == "d1"
    session.say(quota_status=pb.QuotaStatus(exhausted=True))
    session.say()
    assert [(await gateway.event("ignored"))["message"] for _ in range(2)] == ["quota_status", "empty"]
    session.say(quarantine=pb.Quarantine(reason="bad \x1b[2Jday"))
    assert await gateway.event("quarantined") == {"reason": "bad  [2Jday"}
    await session.hear("heartbeat")


async def test_the_control_plane_of_the_last_run_is_found_again(cp: FakeControlPlane, tmp_path: Path) -> None:
    """Without --cp-grpc, where it enrolled comes before the default."""
    local = tmp_path / "gateway.yaml"
    local.write_text(ANYWHERE)
    stored(tmp_path / "state")
    credentials.write_pairing(tmp_path / "state", cp.url)
    stop = asyncio.Event()
    settings = Agent(state_dir=tmp_path / "state", config=str(local))
    task = asyncio.create_task(run(settings, stop=stop, on_event=lambda _name, _fields: None, timing=QUICK))
    await cp.session()
    stop.set()
    await soon(task)


async def test_a_second_gateway_on_one_state_directory_is_refused_by_pid(
    start: Start, cp: FakeControlPlane, tmp_path: Path
) -> None:
    await start()
    settings = Agent(state_dir=tmp_path / "state", enrollment_url=ENROLMENT_URL, cp_grpc=cp.url)
    with pytest.raises(errors.StateDirBusy) as caught:
        await soon(run(settings, stop=asyncio.Event(), on_event=lambda _name, _fields: None))
    assert "process " in caught.value.cause
    assert caught.value.details["pid"].isdigit()


async def test_secrets_are_in_no_event(start: Start, cp: FakeControlPlane) -> None:
    gateway = await start()
    session = await cp.session()
    rotated = jwt(7200, n="rotated")
    session.say(credential_rotation=pb.CredentialRotation(instance_jwt=rotated))
    await gateway.event("credentials_rotated")
    cp.refuse_channel = [grpc.StatusCode.UNAUTHENTICATED]
    session.end(grpc.StatusCode.UNAVAILABLE)
    await gateway.event("credentials_rejected")
    told = "\n".join(
        log_line(name, fields, as_json=as_json) for name, fields in gateway.told for as_json in (True, False)
    )
    for secret in (session.token, rotated, "ENROL-abc"):
        assert secret not in told


async def test_a_control_plane_that_sends_no_headers_is_given_up(tmp_path: Path, start: Start) -> None:
    """A port that accepts and says nothing must not hold the gateway for ever."""
    stored(tmp_path / "state")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        gateway = await start(cp_grpc=url, timing=Timing(headers_s=0.05, backoff_first_s=0.01))
        assert (await gateway.event("session_ended"))["code"] == "DEADLINE_EXCEEDED"
        await gateway.end()


@pytest.mark.parametrize(
    "url",
    ["", "127.0.0.1:7844", "ftp://h:1", "http://", "http://h:99999", "http://h/path", "https://user:s3cret@h:1/p"],
)
async def test_an_unusable_grpc_url_is_a_usage_error_without_the_url(tmp_path: Path, url: str) -> None:
    settings = Agent(state_dir=tmp_path, enrollment_url=ENROLMENT_URL, cp_grpc=url or "x")
    with pytest.raises(errors.Usage) as caught:
        await soon(run(settings, stop=asyncio.Event(), on_event=lambda _name, _fields: None))
    assert "s3cret" not in f"{caught.value.what} {caught.value.cause} {caught.value.hint}"
