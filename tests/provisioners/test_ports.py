"""Ports: from the kernel, remembered, held until the gateway listens, and proved by their owner."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mcpg.errors import PermanentError
from mcpg.host import processes
from mcpg.host.loopback import reserve
from mcpg.provisioners.local import Local

from .conftest import SLEEPER, Exits, answers, order

Make = Callable[..., Local]
Fake = Callable[[str], str]


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
    *, make: Make, fake: Fake, real_gateway: str, instance_id: str, tmp_path: Path, settles: None
) -> None:
    """The real gateway does not exit and does not log: it lives on, deaf. Another one is started on another port."""
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
    make: Make, fake: Fake, instance_id: str, tmp_path: Path, settles: None
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


ELSEWHERE = "import socket,time;s=socket.create_server(('127.0.0.1',0));print('up',flush=True);time.sleep(3600)"


@pytest.mark.parametrize("lines", [SLEEPER, f'exec {sys.executable} -c "{ELSEWHERE}"'])
async def test_a_gateway_that_does_not_listen_where_it_was_told_to_is_replaced_after_a_fair_time(
    make: Make, fake: Fake, instance_id: str, monkeypatch: pytest.MonkeyPatch, lines: str
) -> None:
    """Nobody listens on its port: at first it may be on its way there, later it listens elsewhere, or never will."""
    local = make(fake(lines), stop_grace_s=0.5)
    monkeypatch.setattr(processes, "BIND_S", 600.0)
    (first,) = await local.apply(order(instance_id))
    (same,) = await local.apply(order(instance_id, "op-2"))
    assert (same.pid, same.started) == (first.pid, False)
    monkeypatch.setattr(processes, "BIND_S", 0.0)
    (second,) = await local.apply(order(instance_id, "op-3"))
    assert (second.started, second.pid != first.pid, second.port) == (True, True, first.port)
    with pytest.raises(ProcessLookupError):
        os.kill(first.pid, 0)


def test_how_long_a_process_runs_is_read_from_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours has run for a while, and not since the machine began."""
    me = processes.Identity(os.getpid(), processes.started_at(os.getpid()), processes.boot_id())
    with reserve() as held:
        port = held.getsockname()[1]
        monkeypatch.setattr(processes, "BIND_S", 86400.0)
        assert not processes.is_deaf(port, me, "nobody/1")
        monkeypatch.setattr(processes, "BIND_S", 0.05)
        assert processes.is_deaf(port, me, "nobody/1")


async def test_a_held_port_is_given_to_nobody_else_but_can_be_listened_on() -> None:
    with reserve() as held:
        port = held.getsockname()[1]
        with reserve(port) as same:
            assert same.getsockname()[1] == port
        with _listen(port), reserve(port) as other:
            assert other.getsockname()[1] != port


def _listen(port: int) -> socket.socket:
    return socket.create_server(("127.0.0.1", port))
