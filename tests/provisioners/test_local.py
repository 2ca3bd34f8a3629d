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
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mcpg.engine import config
from mcpg.errors import PermanentError
from mcpg.provisioners import local as local_module
from mcpg.provisioners import processes
from mcpg.provisioners.binary import OWN_VERSION, find_gateway
from mcpg.provisioners.local import Local
from mcpg.provisioners.loopback import reserve
from mcpg.provisioners.noop import Noop
from mcpg.provisioners.replica import Shelf
from mcpg.provisioners.words import last_words

from .conftest import ROOT, SLEEPER, STUBBORN, TOKEN, Exits, answers, enrol, of_state_dir, order

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
    assert await local.last_words(instance_id) == ""
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
    make: Make, real_gateway: str, instance_id: str, exits: Exits
) -> None:
    local = make(real_gateway)
    await local.start(exits)
    with pytest.raises(PermanentError) as caught:
        await local.apply(order(instance_id, config="nonsense: 1\n"))
    assert caught.value.what == "gateway echo did not stay up: exit code 1"
    assert "unknown field: found `nonsense`" in caught.value.cause
    assert "unknown field: found `nonsense`" in await local.last_words(instance_id)
    assert exits.none
    (placed,) = await local.apply(order(instance_id, "op-2"))
    assert placed.started
    assert await local.last_words(instance_id) == ""


CRASH = """
import asyncio, os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from mcpg.provisioners import local, processes
from provisioners.conftest import order

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

async def main():
    here = local.Local(state_dir=Path({state_dir!r}), grpc_url="http://127.0.0.1:9", gateway_bin={gateway!r})
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
    child = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, timeout=60)
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
    async with asyncio.timeout(30):
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
    one, other = make(gateway), make(gateway)  # two control planes: no lock in memory is shared
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
    make: Make, fake: Fake, instance_id: str, tmp_path: Path, exits: Exits
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
    local = make(fake(SLEEPER))
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
    assert await local.last_words(instance_id) == exited.words
    assert (await local.probe(instance_id))[0].detail == "not running"


async def test_an_end_that_nobody_watched_is_reported_once_at_the_next_start(
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
    make: Make, fake: Fake, instance_id: str, state_dir: Path, exits: Exits
) -> None:
    local = make(fake(STUBBORN), stop_grace_s=0.2)
    await local.start(exits)
    placed = await local.apply(order(instance_id, replicas=2))
    removed = await local.remove(instance_id)
    assert removed.pids == tuple(one.pid for one in placed)
    assert removed.detail == "2 processes ended (SIGKILL after 0.2 s)"
    assert of_state_dir(state_dir) == []
    assert exits.none


async def test_what_a_gateway_left_behind_is_ended_with_it(
    make: Make, fake: Fake, instance_id: str, state_dir: Path, exits: Exits
) -> None:
    """A child in a session of its own is out of reach of the group's signal; its environment gives it away."""
    local = make(fake(f"setsid sleep 3600 &\n{SLEEPER}"))
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


# -- ports -------------------------------------------------------------------------------------------------------------


@pytest.mark.peer
async def test_a_remembered_port_that_is_taken_is_replaced(
    make: Make, real_gateway: str, instance_id: str, exits: Exits
) -> None:
    local = make(real_gateway)
    await local.start(exits)
    (first,) = await local.apply(order(instance_id))
    await answers(local, instance_id)
    os.kill(first.pid, signal.SIGKILL)
    await exits.next()
    with _listen(first.port):
        (second,) = await local.apply(order(instance_id, "op-2"))
        assert second.port != first.port
        assert await answers(local, instance_id) == "GET /health 200"


SQUAT = """
import os, pathlib, re, subprocess, sys
seen = pathlib.Path({seen!r})
port = re.search(r"bind_address: 127.0.0.1:(\\d+)", pathlib.Path(os.environ["MCPG_CONFIG"]).read_text())[1]
if not seen.exists():
    code = "import socket,sys;s=socket.socket();s.setsockopt(1,2,1);s.bind(('127.0.0.1',%s));s.listen();print(1,flush=True);sys.stdin.read()" % port
    fifo = os.open({fifo!r}, os.O_RDONLY)
    squatter = subprocess.Popen([sys.executable, "-c", code], stdin=fifo, stdout=subprocess.PIPE, env={{}}, start_new_session=True)
    squatter.stdout.readline()
    seen.write_text(port)
os.execv({gateway!r}, [{gateway!r}])
"""  # noqa: E501


@pytest.mark.peer
async def test_a_port_taken_before_the_gateway_binds_it_is_seen_though_the_gateway_stays_silent(
    *, make: Make, fake: Fake, real_gateway: str, instance_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real gateway does not exit and does not log: it lives on, deaf. Another one is started on another port."""
    monkeypatch.setattr(local_module, "SETTLE_S", 30.0)
    names = {"seen": str(tmp_path / "port"), "fifo": str(tmp_path / "fifo"), "gateway": real_gateway}
    os.mkfifo(names["fifo"])
    (tmp_path / "squat.py").write_text(SQUAT.format(**names))
    held = os.open(names["fifo"], os.O_RDWR)  # the squatter ends when this does
    try:
        local = make(fake(f"exec {sys.executable} {tmp_path}/squat.py"), stop_grace_s=0.5)
        (placed,) = await local.apply(order(instance_id))
        assert placed.port != int((tmp_path / "port").read_text())
        assert placed.started
        assert await answers(local, instance_id) == "GET /health 200"
    finally:
        os.close(held)


async def test_a_gateway_that_says_its_port_is_taken_is_given_another_three_times(
    make: Make, fake: Fake, instance_id: str, tmp_path: Path
) -> None:
    local = make(
        fake(
            f"grep -o '127.0.0.1:[0-9]*' $MCPG_CONFIG >> {tmp_path}/ports\necho 'address in use (os error 98)'; exit 1"
        )
    )
    with pytest.raises(PermanentError, match="did not stay up"):
        await local.apply(order(instance_id))
    ports = [line for line in (tmp_path / "ports").read_text().splitlines() if not line.endswith(":9")]
    assert len(ports) == len(set(ports)) == 3


async def test_a_deaf_gateway_is_told_apart_and_replaced_by_the_next_apply(
    make: Make, fake: Fake, instance_id: str
) -> None:
    local = make(fake(SLEEPER))
    (deaf,) = await local.apply(order(instance_id))
    assert (await local.probe(instance_id))[0].detail == f"does not listen on 127.0.0.1:{deaf.port} yet"
    with _listen(deaf.port):
        (answer,) = await local.probe(instance_id)
        assert (answer.ok, answer.detail) == (False, f"another process listens on 127.0.0.1:{deaf.port}")
        (placed,) = await local.apply(order(instance_id))
        assert placed.started
        assert placed.port != deaf.port


async def test_a_held_port_is_given_to_nobody_else_but_can_be_listened_on() -> None:
    with reserve() as held:
        port = held.getsockname()[1]
        with reserve(port) as same:
            assert same.getsockname()[1] == port
        with _listen(port), reserve(port) as other:
            assert other.getsockname()[1] != port


def _listen(port: int) -> socket.socket:
    return socket.create_server(("127.0.0.1", port))


# -- what cannot be ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", ["../../etc", "", "x", "0" * 36, "A" * 8 + "-0000-0000-0000-000000000000"])
async def test_no_name_escapes_the_state_directory(bad: str, make: Make, fake: Fake) -> None:
    local = make(fake(SLEEPER))
    for call in (local.apply(order(bad)), local.remove(bad), local.probe(bad), local.last_words(bad)):
        with pytest.raises(PermanentError, match="cannot be an instance id"):
            await call


async def test_an_operation_id_is_no_path(make: Make, fake: Fake, instance_id: str) -> None:
    with pytest.raises(PermanentError, match="cannot be an operation id"):
        await make(fake(SLEEPER)).apply(order(instance_id, "../op"))


async def test_a_setting_that_names_no_program_is_said_when_a_gateway_is_wanted(
    make: Make, tmp_path: Path, instance_id: str, exits: Exits
) -> None:
    local = make(str(tmp_path / "nothing"))
    await local.start(exits)
    with pytest.raises(PermanentError) as caught:
        await local.apply(order(instance_id))
    assert str(tmp_path / "nothing") in caught.value.what
    assert "MCPG_CP_GATEWAY_BIN" in caught.value.cause


async def test_a_program_that_cannot_be_executed_says_so(make: Make, tmp_path: Path, instance_id: str) -> None:
    program = tmp_path / "odd"
    program.write_text("#!/no/such/interpreter\n")
    program.chmod(0o755)
    with pytest.raises(PermanentError, match=r"exit code 12[67]") as caught:
        await make(str(program)).apply(order(instance_id))
    assert "odd" in caught.value.cause


def test_the_gateway_is_the_setting_then_path_then_cache_then_our_own(
    tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    own = find_gateway("")
    assert (own.kind, own.argv[1:], own.version) == ("own", ("-m", "mcpg.cli.main", "gateway"), OWN_VERSION)
    cached = tmp_path / "cache" / "node_modules/@mcpg-dev/cli-linux-x64/bin/mcpg"
    on_path = tmp_path / "bin" / "mcpg"
    for path in (cached, on_path):
        path.parent.mkdir(parents=True)
        Path(fake(SLEEPER)).rename(path)
        assert find_gateway("", (tmp_path / "cache",)).path == str(path)
    named = find_gateway(fake(SLEEPER), (tmp_path / "cache",))
    assert named.path != str(on_path)
    assert (named.kind, named.version) == ("mcpg", "fake 1.0")


async def test_our_own_agent_is_told_by_its_environment(
    make: Make, tmp_path: Path, instance_id: str, state_dir: Path
) -> None:
    program = tmp_path / "mcpg-ctl"
    program.write_text("#!/bin/sh\nexec sleep 3600\n")
    program.chmod(0o755)
    (placed,) = await make(str(program)).apply(order(instance_id))
    environ = Path(f"/proc/{placed.pid}/environ").read_text().split("\0")
    assert f"MCPG_ENROLLMENT_URL={await enrol(1)}" in environ
    assert {"MCPG_INSTANCE_UID=uid-1", "MCPG_CP_GRPC=http://127.0.0.1:9"} <= set(environ)
    boot = (state_dir / "gateways" / instance_id / "replica-1" / "gateway.yaml").read_text()
    assert config.booted(boot) == (f"127.0.0.1:{placed.port}", {})


# -- logs --------------------------------------------------------------------------------------------------------------


def test_a_large_log_is_put_aside_at_the_next_start(tmp_path: Path) -> None:
    replica = Shelf(tmp_path).replica("00000000-0000-0000-0000-000000000000", 1)
    assert replica.prepare() == 0
    with replica.log.open("wb") as file:
        file.truncate(10 * 1024 * 1024 + 1)
    assert replica.prepare() == 0
    assert not replica.log.exists()
    assert (replica.directory / "log.1").exists()


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("", ""),
        ("one\ntwo\n\x1b[31mthree\x1b[0m\x07\nfour\n", "two\nthree\nfour"),
        (
            '{"level":"INFO","fields":{"message":"up"}}\n{"level":"ERROR","fields":{"message":"no","error":"x\\ny"}}\n',
            "no: x y",
        ),
        ("Error: a\n\nCaused by:\n    b\n    c\n\nStack backtrace:\n   0: d\n", "Error: a: b: c"),
        ("thread 'main' panicked at x.rs:1:\nboom\n", "thread 'main' panicked at x.rs:1:\nboom"),
        ("#token=ENROL-a.b_c and eyJhbGciOi.eyJzdWIi.c2ln\n", "#token=*** and ***"),
        ('{"fields": []}\n', '{"fields": []}'),
        ("x" * 500 + "\n", "x" * 399 + "…"),
    ],
)
def test_last_words(log: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "log").write_text(log)
    assert words == last_words(tmp_path / "log")


async def test_the_noop_provisioner_places_nothing_real() -> None:
    noop = Noop()
    (placed,) = await noop.apply(order("any"))
    assert (placed.pid, placed.port, placed.endpoints, noop.observes) == (0, 0, (), False)
    assert (await noop.remove("any")).detail == "nothing was running"
