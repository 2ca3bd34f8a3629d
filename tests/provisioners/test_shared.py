"""Two control planes on one machine share a directory of gateways: neither steps on the other's toes, nor waits for ever."""

from __future__ import annotations

import asyncio
import dataclasses
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mcpg.errors import Conflict, TemporaryError
from mcpg.provisioners import locks
from mcpg.provisioners.locks import Locks
from mcpg.provisioners.replica import Shelf
from tests.bounds import BOUND_S
from tests.provisioners.conftest import SLEEPER, order
from tests.provisioners.test_local import Fake, Make, of_state_dir

HOLD = """
import asyncio, sys
from pathlib import Path
from mcpg.provisioners.locks import Locks
from mcpg.provisioners.replica import Shelf

async def main():
    async with Locks(Shelf(Path(sys.argv[1]))).hold(sys.argv[2]):
        print("held", flush=True)
        await asyncio.Event().wait()  # until it is killed

asyncio.run(main())
"""


@contextmanager
def holding(gateways: Path, instance_id: str) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that holds the lock."""
    argv = [sys.executable, "-c", HOLD, str(gateways), instance_id]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"held\n"
            yield process
        finally:
            process.kill()


async def test_a_lock_of_another_process_is_waited_for_and_not_for_ever(
    tmp_path: Path, instance_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "WAIT_S", 0.1)
    with holding(tmp_path, instance_id) as other:
        with pytest.raises(TemporaryError, match="another control plane is working on") as refused:
            async with Locks(Shelf(tmp_path)).hold(instance_id):
                pytest.fail("two hold one lock")
        assert str(other.pid) in refused.value.cause
    async with Locks(Shelf(tmp_path)).hold(instance_id):
        pass  # the kernel took it from the dead


async def test_a_process_that_stands_still_does_not_keep_a_lock(
    tmp_path: Path, instance_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "STOPPED_S", 0.05)
    monkeypatch.setattr(locks, "WAIT_S", BOUND_S)
    with holding(tmp_path, instance_id) as other:
        other.send_signal(signal.SIGSTOP)
        async with asyncio.timeout(BOUND_S), Locks(Shelf(tmp_path)).hold(instance_id):
            third = Locks(Shelf(tmp_path))
            assert third._try(instance_id) is None  # it is held anew, for everybody


async def test_a_gateway_that_dials_a_living_control_plane_is_left_alone(
    make: Make, fake: Fake, instance_id: str, state_dir: Path
) -> None:
    """And one that dials a dead one is started anew: agents know one address."""
    gateway = fake(SLEEPER)
    one, other = make(gateway, grpc_url="http://127.0.0.1:1"), make(gateway, grpc_url="http://127.0.0.1:2")
    [first] = await one.apply(order(instance_id))
    other.serves = {"http://127.0.0.1:1"}.__contains__
    [again] = await other.apply(order(instance_id, operation_id="op-2"))
    assert (again.pid, again.started) == (first.pid, False)
    other.serves = lambda _: False
    [anew] = await other.apply(order(instance_id, operation_id="op-3"))
    assert (anew.pid != first.pid, anew.started) == (True, True)
    assert of_state_dir(state_dir) == [anew.pid]


async def test_an_order_that_was_overtaken_touches_nothing(
    make: Make, fake: Fake, instance_id: str, state_dir: Path
) -> None:
    """A control plane stood still in the middle, and wakes with an old idea of who lives and of what should run."""
    gateway = fake(SLEEPER)
    one, old = make(gateway, grpc_url="http://127.0.0.1:1"), make(gateway, grpc_url="http://127.0.0.1:2")
    placed = await one.apply(order(instance_id, replicas=2))
    old.serves = lambda _: False

    async def overtaken() -> None:
        raise Conflict("op-1 was overtaken")

    with pytest.raises(Conflict):
        await old.apply(dataclasses.replace(order(instance_id, operation_id="op-0"), check=overtaken))
    assert sorted(of_state_dir(state_dir)) == sorted(p.pid for p in placed)


async def test_what_another_started_is_watched_after_a_look_and_its_end_is_told(
    make: Make, fake: Fake, instance_id: str, state_dir: Path
) -> None:
    told: asyncio.Queue[int] = asyncio.Queue()
    gateway = fake(SLEEPER)
    one, other = make(gateway), make(gateway)
    await other.start(lambda exited: told.put_nowait(exited.pid))
    [placed] = await one.apply(order(instance_id))
    await other.watch_all()
    subprocess.run(["kill", "-9", str(placed.pid)], check=True)
    async with asyncio.timeout(BOUND_S):
        assert await told.get() == placed.pid


async def test_an_end_that_was_slept_through_is_no_news_once_another_was_started(
    make: Make, fake: Fake, instance_id: str, state_dir: Path
) -> None:
    """Or the agent of the new process would be shown as departed, by whoever stood still meanwhile."""
    told: list[int] = []
    gateway = fake(SLEEPER)
    asleep, one = make(gateway, grpc_url="http://127.0.0.1:1"), make(gateway, grpc_url="http://127.0.0.1:2")
    await asleep.start(lambda exited: told.append(exited.pid))
    [old] = await asleep.apply(order(instance_id))
    [watch] = asleep._watches.values()
    asyncio.get_running_loop().remove_reader(watch._fd)
    [new] = await one.apply(order(instance_id, operation_id="op-2"))
    assert old.pid != new.pid
    watch._readable()
    assert told == []
    asleep.serves = lambda _: True
    [there] = await asleep.apply(order(instance_id, operation_id="op-2"))
    assert (there.pid, there.started) == (new.pid, False)
    assert of_state_dir(state_dir) == [new.pid]


async def test_who_has_not_seen_an_end_yet_starts_nothing_beside_what_another_started(
    make: Make, fake: Fake, instance_id: str, state_dir: Path
) -> None:
    gateway = fake(SLEEPER)
    slow, one = make(gateway, grpc_url="http://127.0.0.1:1"), make(gateway, grpc_url="http://127.0.0.1:2")
    await slow.start(lambda _: None)
    await slow.apply(order(instance_id))
    [watch] = slow._watches.values()
    asyncio.get_running_loop().remove_reader(watch._fd)
    [new] = await one.apply(order(instance_id, operation_id="op-2"))
    slow.serves = lambda _: True
    asyncio.get_running_loop().call_later(0.05, watch._readable)
    [there] = await slow.apply(order(instance_id, operation_id="op-3"))
    assert (there.pid, there.started) == (new.pid, False)
    assert of_state_dir(state_dir) == [new.pid]


async def test_who_wakes_in_the_middle_of_a_start_leaves_the_files_as_another_wrote_them(
    make: Make, fake: Fake, instance_id: str, state_dir: Path
) -> None:
    """It stood still, its lock was set aside, and another started the gateway under the same operation's id."""
    gateway = fake(SLEEPER)
    asleep, other = make(gateway, grpc_url="http://127.0.0.1:1"), make(gateway, grpc_url="http://127.0.0.1:2")
    new: list[int] = []

    async def stands_still(_: int) -> str:
        other._locks.forget(instance_id)
        [placed] = await other.apply(order(instance_id))
        new.append(placed.port)
        return "url"

    with pytest.raises(TemporaryError, match="another control plane may be working on"):
        await asleep.apply(dataclasses.replace(order(instance_id), enrol=stands_still))
    replica = Shelf(state_dir / "gateways").replica(instance_id, 1)
    assert ([replica.port], replica.control_plane) == (new, "http://127.0.0.1:2")
    assert len(of_state_dir(state_dir)) == 1


async def test_who_wakes_in_the_middle_of_a_stop_ends_nothing_that_another_started(
    make: Make, fake: Fake, instance_id: str, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = fake(SLEEPER)
    asleep = make(gateway)
    await asleep.apply(order(instance_id))
    anew: list[subprocess.Popen[bytes]] = []

    def stand_still(point: str) -> None:
        if point == "replica:between:stop":
            asleep._locks.forget(instance_id)
            marker = {"MCPG_CTL_REPLICA": f"{instance_id}/1"}
            anew.append(subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env=marker))

    monkeypatch.setattr("mcpg.faults.reach", stand_still)
    with pytest.raises(TemporaryError, match="another control plane may be working on"):
        await asleep.remove(instance_id)
    [process] = anew
    assert (state_dir / "gateways" / instance_id).is_dir(), "its files are another's too"
    assert process.poll() is None
    process.communicate(b"\n")
    assert process.returncode == 0
