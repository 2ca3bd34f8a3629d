"""
Operations of three durable phases: this engine beside DBOS Transact, in turns, each round in a new process.

Ours: requests.publish, then the no-op provisioner's ladder to `ready` (allocating, applying, confirming; every phase is
committed and synced before the next), as benchmarks/ladder.py has it. DBOS: a workflow of three steps that do nothing,
called by N threads. Both on SQLite and on a PostgreSQL that is started for this with its own settings, a new database for
each round. DBOS has its SQLite file as it makes it (a rollback journal), and one switched to WAL, which is kinder to it;
the best of its three is a case of its own.

The first run installs DBOS into .cache/bench/dbos-venv.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.measure import CACHE, ROOT, Load, Wrong, bounded, clean_environment, emit, middle, say, scratch
from tests.postgres import Server, serving

DBOS = "dbos[postgres]==3.4.0"
PEER = ROOT / "benchmarks" / "dbos_peer.py"
IN_FLIGHT = (1, 32)
DATABASES = ("sqlite", "pg")


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


def ours(in_flight: int, seconds: float, url: str = "") -> dict[str, Any]:
    """One round of benchmarks/ladder.py in a process of its own, on SQLite or on the empty PostgreSQL database at *url*."""
    argv = [sys.executable, "-m", "benchmarks.ladder", "--rounds", "1", "--seconds", str(seconds)]
    argv += ["--url", url] if url else []
    done = subprocess.run(
        [*argv, "--in-flight", str(in_flight)], capture_output=True, text=True, timeout=120, check=False, cwd=ROOT,
        env=clean_environment(),
    )  # fmt: skip
    if done.returncode != 0:
        raise Wrong(done.stderr[-1500:])
    line = json.loads(done.stdout.splitlines()[-1])
    return {k: v for k, v in line.items() if isinstance(v, float | int) and k not in ("rounds", "synchronous")}


Side = Callable[[int, float], dict[str, Any]]
OURS = ("ours", "ladder beside dbos sqlite"), ("ours", "ladder beside dbos pg")
THEIRS = ("dbos", "ladder sqlite WAL"), ("dbos", "ladder pg")
DEFAULT = ("dbos", "ladder sqlite default")


def sides(server: Server) -> dict[tuple[str, str], Side]:
    """Who takes turns, by bench and case: each a round of some in flight for some seconds, on a database of its own."""

    def wal(in_flight: int, seconds: float) -> dict[str, Any]:
        with scratch() as directory:
            return peer("run", peer_url(directory), in_flight, "--seconds", str(seconds))

    def default(in_flight: int, seconds: float) -> dict[str, Any]:
        with scratch() as directory:
            return peer("run", f"sqlite:///{directory}/dbos.db", in_flight, "--seconds", str(seconds))

    def on_postgres(work: Callable[[str], dict[str, Any]], url: str) -> dict[str, Any]:
        try:
            return work(url)
        finally:
            server.drop(url)

    def ours_pg(in_flight: int, seconds: float) -> dict[str, Any]:
        return on_postgres(lambda url: ours(in_flight, seconds, url), server.fresh())

    def theirs_pg(in_flight: int, seconds: float) -> dict[str, Any]:
        def work(url: str) -> dict[str, Any]:
            return peer("run", url.replace("postgres:", "postgresql:", 1), in_flight, "--seconds", str(seconds))

        return on_postgres(work, server.empty())

    return {OURS[0]: ours, THEIRS[0]: wal, DEFAULT: default, OURS[1]: ours_pg, THEIRS[1]: theirs_pg}


def measure(server: Server, rounds: int, seconds: float, numbers: tuple[int, ...], databases: tuple[str, ...]) -> None:
    """All in turns at each number in flight; medians, and how many times faster and cheaper ours is."""
    peer_python()
    taking_part = {key: side for key, side in sides(server).items() if any(d in key[1].split() for d in databases)}
    for in_flight in numbers:
        taken: dict[tuple[str, str], list[dict[str, float]]] = {key: [] for key in taking_part}
        for _ in range(rounds):
            for key, side in taking_part.items():
                with Load() as load:
                    figures = side(in_flight, seconds)
                taken[key].append(figures | {"other_cpu": load.other_cpu})
        found = {key: middle(all_rounds) for key, all_rounds in taken.items()}
        for (bench, case), figures in found.items():
            emit(bench, f"{case} conc={in_flight}", rounds=rounds, **figures)
        best = max((key for key in found if key[0] == "dbos"), key=lambda key: found[key]["per_s"])
        emit("dbos", f"ladder best conc={in_flight}", which=best[1], rounds=rounds, **found[best])
        for mine, theirs in zip(OURS, THEIRS, strict=True):
            if mine in found:
                _say(in_flight, mine[1], found[mine], theirs[1], found[theirs])
                _say(in_flight, mine[1], found[mine], f"{best[1]}, its best", found[best])


def _say(in_flight: int, case: str, mine: dict[str, float], other: str, theirs: dict[str, float]) -> None:
    say(
        f"{in_flight} in flight, {case}: {mine['per_s']:.0f}/s against {theirs['per_s']:.0f}/s ({other})"
        f" = {mine['per_s'] / theirs['per_s']:.1f}x; CPU {mine['cpu_ms']:.2f} against {theirs['cpu_ms']:.2f} ms"
        f" = {mine['cpu_ms'] / theirs['cpu_ms']:.3f}x"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of one round")
    parser.add_argument("--in-flight", type=int, action="append", help="1 and 32 when not given")
    parser.add_argument("--database", choices=DATABASES, action="append", help="all when not given")
    a = parser.parse_args()
    numbers, databases = tuple(a.in_flight or IN_FLIGHT), tuple(a.database or DATABASES)

    def work() -> None:
        with serving(()) as server:
            measure(server, a.rounds, a.seconds, numbers, databases)

    bounded(900 + int(a.rounds * len(numbers) * 5 * (a.seconds + 10)), work)


if __name__ == "__main__":
    main()
