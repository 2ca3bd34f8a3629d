"""The ports that tests hand out are nobody else's."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from tests import ports
from tests.bounds import BOUND_S
from tests.conftest import ROOT

OTHER = "import sys; from tests.ports import free_port; print(free_port(), flush=True); sys.stdin.read()"


def test_a_port_is_handed_out_once_and_lies_outside_of_the_kernels_range() -> None:
    low, high = map(int, ports.KERNELS.read_text().split())
    found = [ports.free_port() for _ in range(ports.BLOCK + 1)]
    assert len(set(found)) == len(found)
    assert [port for port in found if low <= port <= high] == []
    with socket.create_server(("127.0.0.1", found[-1])):
        pass


def test_another_process_is_given_other_ports_and_who_ended_gives_his_back() -> None:
    mine = ports.free_port()
    argv = [sys.executable, "-c", OTHER]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(argv, cwd=ROOT, text=True, **pipes) as other:
        assert other.stdout is not None
        theirs = range(int(other.stdout.readline()) // ports.BLOCK * ports.BLOCK, ports.LAST)[: ports.BLOCK]
        assert mine not in theirs
        assert ports._hold(theirs) is None
        other.kill()
        other.wait(BOUND_S)
    name = ports._hold(theirs)
    assert name is not None
    name.close()


def test_what_somebody_listens_on_is_passed_over() -> None:
    handed_out = ports.handed_out()
    first = next(handed_out)
    with socket.create_server(("127.0.0.1", first + 1)):
        assert next(handed_out) > first + 1
    handed_out.close()


@pytest.mark.parametrize(
    ("low", "high", "count", "first"),
    [
        (32_768, 60_999, 272, 10_000),
        (1024, 60_999, 45, 61_000),
        (10_050, 65_535, 0, None),
        (15_000, 65_535, 50, 10_000),
    ],
)
def test_blocks_lie_outside_of_the_kernels_range(low: int, high: int, count: int, first: int | None) -> None:
    found = list(ports.blocks(low, high))
    assert (len(found), found[0][0] if found else None) == (count, first)
    assert [block for block in found if low <= block[-1] and block[0] <= high] == []
    assert all(block[-1] <= ports.LAST for block in found)
