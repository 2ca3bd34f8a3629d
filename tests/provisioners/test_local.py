"""
Gateways as processes: the real binary where its behaviour matters, small scripts where a gateway must behave badly.

Nothing here waits by the clock: an end is awaited through `on_exit`, an answer by asking until it comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mcpg.engine import config
from mcpg.errors import PermanentError
from mcpg.host import processes
from mcpg.provisioners.local import Local
from tests.bounds import BOUND_S

from .conftest import ROOT, SLEEPER, TOKEN, Exits, answers, enrol, of_state_dir, order

Make = Callable[..., Local]
Fake = Callable[[str], str]

SAYS_AND_DIES = """
echo "Error: failed to load application config"; echo; echo "Caused by:"
echo "    token ENROL-do-not-tell-0123456789-1 is odd"; exit 3
"""


# -- the real gateway --------------------------------------------------------------------------------------------------


@pytest.mark.peer
async def test_a_gateway_starts_answers_and_is_removed(
    make: Make, real_gateway: str, instance_id: str, state_dir: Path, exits: Exits
) -> None:
    local = make(real_gateway)
    await local.start(exits)
    assert local.gateway_version.startswith("mcpg ")
    (placed,) = await local.apply(order(instance_id))
    port = placed.port
    assert placed.endpoints == (f"http://127.0.0.1:{port}/mcp", f"http://echo.localhost:{port}/mcp")
    assert placed.started
    assert await answers(local, instance_id) == "GET /health 200"
    # Its control plane is not there, so it would take 30 s over its last flush: the grace is shorter.
    removed = await local.remove(instance_id)
    assert removed.pids == (placed.pid,)
    assert removed.detail == "1 process ended (SIGKILL after 5 s)"
    assert of_state_dir(state_dir) == []
    assert list(state_dir.glob("gateways/*")) == []
    assert exits.none
    again = await local.remove(instance_id)
    assert (again.pids, again.detail) == ((), "nothing was running")


@pytest.mark.peer
async def test_the_secret_is_in_a_file_of_its_user_and_not_on_argv(
    make: Make, real_gateway: str, instance_id: str, state_dir: Path
) -> None:
    local = make(real_gateway)
    (placed,) = await local.apply(order(instance_id))
    boot = state_dir / "gateways" / instance_id / "replica-1" / "gateway.yaml"
    assert TOKEN in boot.read_text()
    modes = {stat.S_IMODE(path.stat().st_mode) for path in boot.parent.iterdir() if path.is_file()}
    assert modes == {0o600}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (boot.parent, boot.parent.parent)} == {0o700}
    assert TOKEN.encode() not in Path(f"/proc/{placed.pid}/cmdline").read_bytes()
    assert TOKEN.encode() not in Path(f"/proc/{placed.pid}/environ").read_bytes()


async def test_a_gateway_inherits_nothing_of_the_control_plane(
    make: Make, fake: Fake, instance_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MCPG_CP_DB_URL", "sqlite://secret")
    monkeypatch.setenv("MCPG_SESSION_COOKIE", "secret")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy")
    (placed,) = await make(fake(SLEEPER)).apply(order(instance_id))
    environ = Path(f"/proc/{placed.pid}/environ").read_bytes()
    assert b"secret" not in environ
    assert b"HTTPS_PROXY=http://proxy" in environ
    assert os.getsid(placed.pid) == placed.pid
    assert os.readlink(f"/proc/{placed.pid}/fd/0") == "/dev/null"


@pytest.mark.peer
async def test_the_words_of_a_refused_config_reach_the_error(
    make: Make, real_gateway: str, instance_id: str, exits: Exits, settles: None
) -> None:
    local = make(real_gateway)
    await local.start(exits)
    with pytest.raises(PermanentError) as caught:
        await local.apply(order(instance_id, config="nonsense: 1\n"))
    assert caught.value.what == "gateway echo did not stay up: exit code 1"
    assert "unknown field: found `nonsense`" in caught.value.cause
    assert exits.none
    (placed,) = await local.apply(order(instance_id, "op-2"))
    assert placed.started


CRASH = """
import asyncio, os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from mcpg.host import processes
from mcpg.provisioners import local
from provisioners.conftest import order

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

async def main():
    here = local.Local(gateways_dir=Path({state_dir!r}) / "gateways", grpc_url="http://127.0.0.1:9", gateway_bin={gateway!r})
    {when}
    await here.apply(order({instance_id!r}))
    die()

asyncio.run(main())
"""


@pytest.mark.peer
@pytest.mark.parametrize(
    "when",
    [
        pytest.param("pass", id="after apply"),
        pytest.param("processes._end_of_file = die", id="between spawn and exec"),
        pytest.param(
            "here._living = lambda *_, **__: die() if _[0].launched() else asyncio.sleep(0)", id="before watch"
        ),
    ],
)
async def test_a_control_plane_killed_while_it_starts_a_gateway_finds_it_again(
    *, when: str, make: Make, real_gateway: str, instance_id: str, state_dir: Path, exits: Exits
) -> None:
    names = {"tests": str(ROOT / "tests"), "state_dir": str(state_dir), "gateway": real_gateway}
    code = CRASH.format(**names, when=when, instance_id=instance_id)
    child = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, timeout=BOUND_S)
    assert child.returncode == -signal.SIGKILL
    local = make(real_gateway)
    await local.start(exits)
    (placed,) = await local.apply(order(instance_id))
    assert await answers(local, instance_id) == "GET /health 200"
    assert of_state_dir(state_dir) == [placed.pid]
    # Adopted, so watched: its end is seen, without a code, because it is nobody's child here.
    os.kill(placed.pid, signal.SIGKILL)
    exited = await exits.next()
    assert (exited.instance_id, exited.replica, exited.pid) == (instance_id, 1, placed.pid)


@pytest.mark.peer
async def test_a_kept_config_is_what_the_gateway_boots_with(
    make: Make, real_gateway: str, instance_id: str, state_dir: Path, exits: Exits
) -> None:
    local = make(real_gateway)
    await local.start(exits)
    (placed,) = await local.apply(order(instance_id))
    boot = state_dir / "gateways" / instance_id / "replica-1" / "gateway.yaml"
    bind, control_plane = config.booted(boot.read_text())
    wanted = config.render((ROOT / "examples" / "echo.yaml").read_text()).text
    await local.keep(instance_id, wanted)
    assert config.booted(boot.read_text()) == (bind, control_plane)
    os.kill(placed.pid, signal.SIGKILL)
    await exits.next()
    # Started by hand from that file, as a supervisor would after the control plane is gone.
    env = {"MCPG_CONFIG": str(boot), "MCPG_STATE_DIR": str(boot.parent), "PATH": os.defpath}
    log = (boot.parent / "by-hand").open("wb")
    with log, subprocess.Popen([real_gateway], env=env, cwd=boot.parent, stdout=log, stderr=log) as process:
        try:
            assert "demo.echo" in await _tools(placed.port)
        finally:
            process.kill()


async def _tools(port: int) -> str:
    """tools/list of the gateway at *port*, as soon as it listens."""
    headers = "content-type: application/json\r\naccept: application/json, text/event-stream\r\nconnection: close\r\n"

    async def post(body: str, session: str) -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"POST /mcp HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n{headers}{session}content-length: {len(body)}\r\n\r\n"
        writer.write((head + body).encode())
        answer = (await reader.read()).decode()
        writer.close()
        await writer.wait_closed()
        return answer

    hello = '{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-03-26","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}'  # noqa: E501
    async with asyncio.timeout(BOUND_S):
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                answer = await post(hello, "")
                break
        session = next(line for line in answer.splitlines() if line.lower().startswith("mcp-session-id")) + "\r\n"
        await post('{"jsonrpc":"2.0","method":"notifications/initialized"}', session)
        return await post('{"jsonrpc":"2.0","id":2,"method":"tools/list"}', session)


# -- idempotency -------------------------------------------------------------------------------------------------------


async def test_apply_twice_at_once_starts_one_process(
    make: Make, fake: Fake, instance_id: str, state_dir: Path
) -> None:
    gateway = fake(SLEEPER)
    one, other = make(gateway), make(gateway)  # two control planes: no lock in memory is shared,
    other._locks._directory = state_dir / "set-aside"  # and that on disk was set aside: what a launch does must suffice
    both_saw_nothing = asyncio.Barrier(2)

    async def enrol_together(replica: int) -> str:
        await both_saw_nothing.wait()
        return await enrol(replica)

    wanted = dataclasses.replace(order(instance_id), enrol=enrol_together)
    results = await asyncio.gather(one.apply(wanted), one.apply(wanted), other.apply(wanted))
    (pid,) = of_state_dir(state_dir)
    assert {placed.pid for (placed,) in results} == {pid}
    assert [placed.started for (placed,) in results].count(True) == 1


async def test_a_crashed_start_is_not_repeated_under_its_operation_and_is_under_a_new_one(
    make: Make, fake: Fake, instance_id: str, tmp_path: Path, exits: Exits, settles: None
) -> None:
    local = make(fake(f"echo run >> {tmp_path}/runs\n{SAYS_AND_DIES}"))
    await local.start(exits)
    for operation_id in ("op-1", "op-1", "op-2", "op-2"):
        with pytest.raises(PermanentError, match="did not stay up: exit code 3"):
            await local.apply(order(instance_id, operation_id))
    assert (tmp_path / "runs").read_text().count("run") == 2


async def test_a_new_operation_leaves_what_lives_and_starts_what_died(
    make: Make, fake: Fake, instance_id: str, exits: Exits
) -> None:
    local = make(fake(SLEEPER))
    await local.start(exits)
    (first,) = await local.apply(order(instance_id))
    (second,) = await local.apply(order(instance_id, "op-2"))
    assert (second.pid, second.port, second.started) == (first.pid, first.port, False)
    os.kill(first.pid, signal.SIGKILL)
    assert (await exits.next()).reason == "signal 9"
    with pytest.raises(PermanentError, match="signal 9"):
        await local.apply(order(instance_id, "op-1"))
    (third,) = await local.apply(order(instance_id, "op-3"))
    assert third.started
    assert third.port == first.port


async def test_fewer_replicas_stop_the_surplus(make: Make, fake: Fake, instance_id: str, state_dir: Path) -> None:
    local = make(fake(SLEEPER), stop_grace_s=BOUND_S)
    three = await local.apply(order(instance_id, replicas=3))
    assert [len(placed.endpoints) for placed in three] == [2, 1, 1]
    assert len({placed.port for placed in three}) == 3
    (one,) = await local.apply(order(instance_id, "op-2"))
    assert one.pid == three[0].pid
    assert of_state_dir(state_dir) == [one.pid]
    await local.apply(order(instance_id, "op-3", replicas=2))
    assert (await local.remove(instance_id)).detail == "2 processes ended (SIGTERM)"


# -- ends --------------------------------------------------------------------------------------------------------------


async def test_an_end_is_seen_with_its_code_and_its_words_without_secrets(
    make: Make, fake: Fake, instance_id: str, tmp_path: Path, exits: Exits
) -> None:
    os.mkfifo(tmp_path / "until")
    local = make(fake(f"read -r _ < {tmp_path}/until\n{SAYS_AND_DIES}"))
    await local.start(exits)
    (placed,) = await local.apply(order(instance_id))
    (tmp_path / "until").write_text("now\n")
    exited = await exits.next()
    assert (exited.pid, exited.reason) == (placed.pid, "exit code 3")
    assert exited.words == "Error: failed to load application config: token ENROL-*** is odd"
    assert (await local.probe(instance_id))[0].detail == "not running"


async def test_an_end_that_nobody_watched_is_reported_at_each_start_until_it_is_started_again(
    make: Make, fake: Fake, instance_id: str, exits: Exits
) -> None:
    gateway = fake(SLEEPER)
    before = make(gateway)
    await before.start(exits)
    (placed,) = await before.apply(order(instance_id))
    await before.stop()
    os.kill(placed.pid, signal.SIGTERM)
    os.waitid(os.P_PID, placed.pid, os.WEXITED | os.WNOWAIT)
    await make(gateway).start(exits)
    assert (await exits.next()).reason == "signal 15"
    after = make(gateway)
    await after.start(exits)  # who heard of it may have been killed before it was written down
    assert (await exits.next()).reason == "signal 15"
    await after.apply(order(instance_id, operation_id="op-2"))
    await after.stop()
    await make(gateway).start(exits)
    assert exits.none


async def test_a_gateway_of_an_earlier_boot_is_reported_as_lost(
    make: Make, fake: Fake, instance_id: str, state_dir: Path, exits: Exits
) -> None:
    local = make(fake(SLEEPER))
    await local.apply(order(instance_id))
    await local.stop()
    record = state_dir / "gateways" / instance_id / "replica-1" / "op-1.pid"
    record.write_text(record.read_text().replace(processes.boot_id(), "0" * 8 + processes.boot_id()[8:]))
    await make(fake(SLEEPER)).start(exits)
    assert (await exits.next()).reason == "not found after a restart of this machine"


@pytest.mark.parametrize("same_start_time", [True, False])
async def test_a_reused_pid_is_never_taken_for_ours(
    *, same_start_time: bool, make: Make, fake: Fake, instance_id: str, state_dir: Path, exits: Exits
) -> None:
    local = make(fake(SLEEPER))
    (placed,) = await local.apply(order(instance_id))
    await local.stop()
    record = state_dir / "gateways" / instance_id / "replica-1" / "op-1.pid"
    mine = record.read_text()
    os.kill(placed.pid, signal.SIGKILL)
    os.waitpid(placed.pid, 0)
    with subprocess.Popen(["sleep", "3600"], start_new_session=True) as stranger:
        try:
            stat_line = Path(f"/proc/{stranger.pid}/stat").read_text() if same_start_time else mine.split(" ", 3)[3]
            record.write_text(f"{stranger.pid} {processes.boot_id()} 0 {stat_line}")
            local = make(fake(SLEEPER))
            await local.start(exits)
            assert (await exits.next()).pid == stranger.pid
            assert (await local.remove(instance_id)).pids == ()
            assert stranger.poll() is None
        finally:
            stranger.kill()


def test_a_process_without_an_environment_to_read_is_known_by_its_start() -> None:
    """As it is during exec, when a gateway is looked at first, and after its exit, before its code can be collected."""
    with subprocess.Popen(["sleep", "3600"], env={}) as process:
        try:
            line = f"{process.pid} {processes.boot_id()} 0 {Path(f'/proc/{process.pid}/stat').read_text()}"
            record = processes.parse_record(line)
            assert record is not None
            assert processes.is_alive(record.identity, "any")
        finally:
            process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert processes._environ(process.pid) == b""
        assert not processes.is_alive(record.identity, "any")


async def test_a_gateway_that_ignores_sigterm_is_killed_with_its_children(
    make: Make, fake: Fake, instance_id: str, state_dir: Path, tmp_path: Path, exits: Exits
) -> None:
    ready = tmp_path / "ready"
    local = make(fake(f"trap '' TERM\necho y >> {ready}\nwhile :; do sleep 3600; done"), stop_grace_s=0.2)
    await local.start(exits)
    placed = await local.apply(order(instance_id, replicas=2))
    async with asyncio.timeout(BOUND_S):
        while not ready.exists() or ready.read_text() != "y\ny\n":
            await asyncio.sleep(0.01)
    removed = await local.remove(instance_id)
    assert removed.pids == tuple(one.pid for one in placed)
    assert removed.detail == "2 processes ended (SIGKILL after 0.2 s)"
    assert of_state_dir(state_dir) == []
    assert exits.none


async def test_what_a_gateway_left_behind_is_ended_with_it(
    make: Make, fake: Fake, instance_id: str, state_dir: Path, exits: Exits
) -> None:
    """A child in a session of its own is out of reach of the group's signal; its environment gives it away."""
    local = make(fake(f"setsid sleep 3600 &\n{SLEEPER}"), stop_grace_s=BOUND_S)
    await local.apply(order(instance_id))
    assert (await local.remove(instance_id)).detail == "1 process ended (SIGTERM)"
    assert of_state_dir(state_dir) == []


async def test_stop_leaves_gateways_running(make: Make, fake: Fake, instance_id: str, exits: Exits) -> None:
    local = make(fake(SLEEPER))
    await local.start(exits)
    (placed,) = await local.apply(order(instance_id))
    await local.stop()
    assert os.waitpid(placed.pid, os.WNOHANG) == (0, 0)
    assert exits.none
