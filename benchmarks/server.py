"""
What the server costs: first start with migrations, warm start, memory and CPU at rest, SIGTERM to exit.

`mcpg-ctl serve` as it is shipped (the `local` provisioner, kernel-chosen loopback ports) on a fresh directory: started,
stopped, started again (the warm start), left alone to settle, watched while idle, stopped. Ready means that /readyz
says so. CPU and memory are those of the whole process tree. The bare interpreter is timed in the same run for a ratio.
One start is thrown away first, so that "first" means a fresh state directory and not cold bytecode.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from benchmarks.measure import (
    PYTHON,
    Load,
    bounded,
    clean_environment,
    emit,
    median,
    middle,
    on_cpu_s,
    run,
    scratch,
    tree_memory,
    wake_ups,
)
from benchmarks.serving import serve


def one_round(directory: Path, settle_s: float, idle_s: float) -> dict[str, float]:
    """A first and a warm start on *directory*, which is empty, and the figures of both."""
    with Load() as load, serve(directory) as first:
        figures = {"first_s": first.start_s, "first_cpu_s": first.start_cpu_s, "first_stop_s": first.stop()}
    figures["other1"] = load.other_cpu
    with Load() as load, serve(directory) as warm:
        figures |= {"warm_s": warm.start_s, "warm_cpu_s": warm.start_cpu_s}
        time.sleep(settle_s)
        cpu, woken = on_cpu_s(warm.pid), wake_ups(warm.pid)
        time.sleep(idle_s)
        figures["idle_cpu_pct"] = (on_cpu_s(warm.pid) - cpu) / idle_s * 100
        figures["idle_wakeups_per_s"] = (wake_ups(warm.pid) - woken) / idle_s
        figures |= tree_memory(warm.pid)
        figures["stop_s"] = warm.stop()
    figures["other2"] = load.other_cpu
    figures["other_cpu"] = max(figures["other1"], figures["other2"])
    return figures


def measure(rounds: int, settle_s: float, idle_s: float) -> None:
    """All rounds, each on a directory of its own; one line with the medians."""
    env = clean_environment()
    with scratch() as thrown_away, serve(thrown_away) as warm_up:
        warm_up.stop()
    taken, bare = [], []
    for _ in range(rounds):
        bare += [run((str(PYTHON), "-c", "pass"), env).cpu_s for _ in range(4)]
        with scratch() as directory:
            taken.append(one_round(directory, settle_s, idle_s))
    figures = middle(taken)
    base = median(bare)
    emit(
        "server", "ours", rounds=rounds, **figures, bare_cpu_s=base, first_cpu_x=figures["first_cpu_s"] / base,
        warm_cpu_x=figures["warm_cpu_s"] / base,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--settle", type=float, default=8.0, help="seconds between ready and the idle measurement")
    parser.add_argument("--idle", type=float, default=15.0, help="seconds of idleness that are measured")
    a = parser.parse_args()
    bounded(60 + int(a.rounds * (a.settle + a.idle + 40)), lambda: measure(a.rounds, a.settle, a.idle))


if __name__ == "__main__":
    main()
