"""
Operations of three durable phases: this engine beside DBOS Transact, in turns, each round in a new process.

Ours: requests.publish, then the no-op provisioner's ladder to `ready` (allocating, applying, confirming; every phase is
committed and synced before the next), as benchmarks/ladder.py has it. DBOS: a workflow of three steps that do nothing,
called by N threads, its SQLite file switched to WAL (kinder to it than its default).

The first run installs DBOS into .cache/bench/dbos-venv.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.measure import CACHE, ROOT, Load, Wrong, bounded, clean_environment, emit, middle, say, scratch

DBOS = "dbos[postgres]==3.4.0"
PEER = ROOT / "benchmarks" / "dbos_peer.py"
IN_FLIGHT = (1, 32)


def peer_python() -> Path:
    """The Python that has DBOS; installed when it is not there. Raises Wrong when it cannot be."""
    home = CACHE / "dbos-venv"
    python, made = home / "bin" / "python", home / "made-from"
    if made.exists() and made.read_text() == DBOS:
        return python
    say(f"installing {DBOS} into {home.relative_to(ROOT)}")
    shutil.rmtree(home, ignore_errors=True)
    for argv in (
        [sys.executable, "-m", "venv", str(home)],
        [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", DBOS],
    ):
        done = subprocess.run(argv, capture_output=True, text=True, timeout=600, check=False)
        if done.returncode != 0:
            raise Wrong(f"DBOS could not be installed: {done.stderr[-500:]}")
    made.write_text(DBOS)
    return python


def peer(what: str, url: str, n: int, *more: str) -> dict[str, Any]:
    """One run of benchmarks/dbos_peer.py. Raises Wrong with its own words."""
    argv = [str(peer_python()), "-P", str(PEER), what, "--url", url, "--n", str(n), *more]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False, env=clean_environment())
    if done.returncode != 0:
        raise Wrong(f"dbos {what}: {done.stderr[-1500:]}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def peer_url(directory: Path) -> str:
    """A new SQLite file for it, in WAL."""
    path = directory / "dbos.db"
    db = sqlite3.connect(path)
    db.execute("PRAGMA journal_mode=WAL")
    db.close()
    return f"sqlite:///{path}"


def ours(in_flight: int, seconds: float) -> dict[str, Any]:
    """One round of benchmarks/ladder.py in a process of its own."""
    argv = [sys.executable, "-m", "benchmarks.ladder", "--rounds", "1", "--seconds", str(seconds)]
    done = subprocess.run(
        [*argv, "--in-flight", str(in_flight)], capture_output=True, text=True, timeout=120, check=False, cwd=ROOT,
        env=clean_environment(),
    )  # fmt: skip
    if done.returncode != 0:
        raise Wrong(done.stderr[-1500:])
    line = json.loads(done.stdout.splitlines()[-1])
    return {k: v for k, v in line.items() if isinstance(v, float | int) and k not in ("rounds", "synchronous")}


def measure(rounds: int, seconds: float) -> None:
    """Both in turns at each number in flight; medians, and how many times faster and cheaper ours is."""
    peer_python()
    for in_flight in IN_FLIGHT:
        sides: dict[str, list[dict[str, float]]] = {"ours": [], "dbos": []}
        for _ in range(rounds):
            for side, all_rounds in sides.items():
                with scratch() as directory, Load() as load:
                    if side == "ours":
                        figures = ours(in_flight, seconds)
                    else:
                        figures = peer("run", peer_url(directory), in_flight, "--seconds", str(seconds))
                all_rounds.append(figures | {"other_cpu": load.other_cpu})
        mine, theirs = middle(sides["ours"]), middle(sides["dbos"])
        emit("ours", f"ladder beside dbos sqlite conc={in_flight}", rounds=rounds, **mine)
        emit("dbos", f"ladder sqlite WAL conc={in_flight}", rounds=rounds, **theirs)
        say(
            f"{in_flight} in flight: {mine['per_s']:.0f}/s against {theirs['per_s']:.0f}/s"
            f" = {mine['per_s'] / theirs['per_s']:.1f}x; CPU {mine['cpu_ms']:.2f} against {theirs['cpu_ms']:.2f} ms"
            f" = {mine['cpu_ms'] / theirs['cpu_ms']:.3f}x"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of one round")
    a = parser.parse_args()
    bounded(900 + int(a.rounds * 4 * (a.seconds + 10)), lambda: measure(a.rounds, a.seconds))


if __name__ == "__main__":
    main()
