"""
kill -9 with 32 operations inside their second phase, start again: the seconds from the spawn to the last `ready`.

Ours is a whole server (HTTP, gRPC, SQLite) whose provisioner notes what it starts; DBOS is its library in a bare
process, with workflows of three steps. Both are killed once every operation is inside its second step, in turns.

Afterwards every operation must be ready, and outside each gateway must have been started exactly once.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.beside_dbos import PEER, peer_python, peer_url
from benchmarks.measure import ROOT, Load, Wrong, bounded, clean_environment, emit, middle, say, scratch
from benchmarks.plane import ask

COUNT = 32
WITHIN_S = 60.0


@contextlib.contextmanager
def started(argv: Sequence[str], **env: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        env=clean_environment(**env),
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def killed_when(argv: Sequence[str], inside: Callable[[], int], **env: str) -> None:
    """Start it, wait until `COUNT` operations are inside their second step, and kill it."""
    with started(argv, **env) as process:
        end = time.monotonic() + WITHIN_S
        while inside() < COUNT:
            if process.poll() is not None or time.monotonic() > end:
                process.kill()
                raise Wrong(f"{inside()} of {COUNT} operations came to their second step: {process.communicate()[1]}")
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)


def run(argv: Sequence[str]) -> tuple[dict[str, Any], float]:
    """Start it and let it end: what it printed, and the monotonic time of its spawn."""
    began = time.monotonic()
    with started(argv) as process:
        out, err = process.communicate(timeout=WITHIN_S)
        if process.returncode != 0:
            raise Wrong(err[-1500:])
    figures: dict[str, Any] = json.loads(out.splitlines()[-1])
    return figures, began


def ours(directory: Path) -> dict[str, float]:
    """One kill and one restart. Raises Wrong when an operation or a gateway is lost, or started twice."""
    child = [sys.executable, "-m", "benchmarks.recover_child"]
    world = directory / "world"
    killed_when(
        [*child, "begin", str(directory), str(COUNT)], lambda: len(list(world.iterdir())) if world.exists() else 0
    )
    figures, began = run([*child, "go-on", str(directory), str(COUNT)])
    ready, all_of_them = ask(
        directory / "state" / "cp-state.db",
        "SELECT count(*) FILTER (WHERE state='ready'), count(*) FROM operation",
    )
    marks = [mark.read_text() for mark in world.iterdir()]
    if not ready == all_of_them == COUNT or marks != ["started\n"] * COUNT:
        raise Wrong(f"{all_of_them} operations, {ready} ready, {len(marks)} gateways started")
    return {"last_ready_s": figures["last_ready"] - began, "cpu_s": figures["cpu_s"], "effects": len(marks)}


def theirs(directory: Path) -> dict[str, float]:
    """The same of DBOS; `effects` counts its second steps, which run again."""
    marker = directory / "marker"
    argv = [str(peer_python()), "-P", str(PEER), "recover", "--url", peer_url(directory), "--n", str(COUNT)]
    argv += ["--marker", str(marker)]
    killed_when(argv, lambda: len(marker.read_text().splitlines()) if marker.exists() else 0, BENCH_HANG="1")
    figures, began = run(argv)
    done = [float(line.split()[1]) for line in Path(f"{marker}.done").read_text().splitlines()]
    if len(done) != COUNT:
        raise Wrong(f"dbos: {len(done)} of {COUNT} came to their end")
    effects = len(marker.read_text().splitlines())
    return {"last_ready_s": max(done) - began, "cpu_s": figures["cpu_s"], "effects": effects}


def measure(rounds: int) -> None:
    """Both in turns; medians."""
    peer_python()
    sides: dict[str, list[dict[str, float]]] = {"ours": [], "dbos": []}
    for _ in range(rounds):
        for side, kill in (("ours", ours), ("dbos", theirs)):
            with scratch() as directory, Load() as load:
                figures = kill(directory)
            sides[side].append(figures | {"other_cpu": load.other_cpu})
    for side, all_rounds in sides.items():
        emit(side, f"recover sqlite n={COUNT}", rounds=rounds, **middle(all_rounds))
    mine, peer = (middle(sides[side])["last_ready_s"] for side in ("ours", "dbos"))
    say(f"spawn to the last ready: {mine:.2f} s against {peer:.2f} s = {mine / peer:.2f}x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    a = parser.parse_args()
    bounded(700 + a.rounds * 60, lambda: measure(a.rounds))


if __name__ == "__main__":
    main()
