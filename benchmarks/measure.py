"""
What every benchmark here shares: JSON lines, CPU and memory of process trees, foreign load, real disks, bounded runs.

A figure is one line on stdout: {"bench": …, "case": …, figures, "other_cpu": …}. Words for people go to stderr. A
benchmark that finds its own result to be wrong raises Wrong and prints no line for it: a fast wrong answer is not a
figure.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parent.parent
BIN = ROOT / ".venv" / "bin"
PYTHON = BIN / "python"
CTL = BIN / "mcpg-ctl"
CACHE = ROOT / ".cache" / "bench"

NOISY = 0.25  # share of the machine burned by others, above which a wall-clock figure says nothing

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_SETTINGS = ("MCPG_", "PYTHON", "FORCE_COLOR")
_IN_MEMORY = {"tmpfs", "ramfs", "devtmpfs"}


class Wrong(Exception):
    """What was measured did not do what it should have done, or took longer than its bound."""


def say(words: str) -> None:
    """For people; stdout carries figures only."""
    print(words, file=sys.stderr, flush=True)


def emit(bench: str, case: str, **figures: Any) -> None:
    """One result line."""
    rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in figures.items()}
    print(json.dumps({"bench": bench, "case": case, **rounded}), flush=True)


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least *share* of all do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)]


median = statistics.median


def middle(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    """The median of every figure over several rounds."""
    return {key: median([r[key] for r in rounds]) for key in rounds[0]}


# ---- a bounded run


def bounded(seconds: int, work: Callable[[], None]) -> NoReturn:
    """
    Run *work* and exit: 0, or 1 with what was wrong. It is stopped when it takes longer than *seconds*.

    SIGTERM and the bound arrive as exceptions, so that every `finally` and `with` ends what it started.
    """

    def late(_number: int, _frame: FrameType | None) -> None:
        raise Wrong(f"not finished after {seconds} s: stopped")

    def told(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(143)

    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    signal.signal(signal.SIGALRM, late)
    signal.signal(signal.SIGTERM, told)
    signal.alarm(seconds)
    try:
        work()
    except Wrong as exc:
        say(f"WRONG: {exc}")
        sys.exit(1)
    finally:
        signal.alarm(0)
    sys.exit(0)


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A fresh directory on a real disk, removed afterwards. Raises Wrong on a file system that lives in memory."""
    CACHE.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="run-", dir=CACHE)).resolve()  # a link may lead into memory
    try:
        kind = file_system(directory)
        if kind in _IN_MEMORY:
            raise Wrong(f"{directory} is on {kind}: nothing is durable there, so durability cannot be measured")
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def file_system(path: Path) -> str:
    """The type of the file system *path* is on, e.g. ext4."""
    best, kind = "", "unknown"
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mounted, found, *_ = line.split()
        where = mounted.replace("\\040", " ")
        if path.is_relative_to(where) and len(where) >= len(best):
            best, kind = where, found
    return kind


def clean_environment(**more: str) -> dict[str, str]:
    """Ours without settings of the control plane and of Python: bytecode is written, as it is for everybody."""
    kept = {k: v for k, v in os.environ.items() if k.startswith("MCPG_BENCH_") or not k.startswith(_SETTINGS)}
    return kept | {"NO_COLOR": "1"} | more


# ---- processes


@dataclass(frozen=True, slots=True)
class Ran:
    """One finished process: seconds on the clock, CPU seconds (user and system, children included), its stdout."""

    wall_s: float
    cpu_s: float
    code: int
    out: str


def run(argv: Sequence[str], env: dict[str, str], *, may_fail: bool = False) -> Ran:
    """Run *argv* to its end, stdin closed, stdout into a file so that nobody waits for a reader. A failure is told."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        began = time.perf_counter()
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=env)
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        text = out.read().decode()
        if process.returncode and not may_fail:
            say(err.read().decode(errors="replace")[-2000:])
        return Ran(wall, used.ru_utime + used.ru_stime, process.returncode, text)


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat after the name, or None when it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return text[text.rindex(")") + 2 :].split()


def tree(pid: int) -> list[int]:
    """*pid* and all that descend from it."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (fields := _stat(int(entry))) is not None:
            children.setdefault(int(fields[1]), []).append(int(entry))
    found, todo = [], [pid]
    while todo:
        each = todo.pop()
        if _stat(each) is not None:
            found.append(each)
        todo += children.get(each, [])
    return found


def tree_cpu_s(pid: int) -> float:
    """CPU seconds of the tree so far, with the children it has waited for. Resolution: one clock tick (10 ms)."""
    total = 0
    for each in tree(pid):
        if (fields := _stat(each)) is not None:
            total += sum(int(f) for f in fields[11:15])
    return total * _TICK_S


def on_cpu_s(pid: int) -> float:
    """CPU seconds of the tree's living threads so far, to the nanosecond: for spans in which no thread ends."""
    total = 0
    for each in tree(pid):
        for thread in Path(f"/proc/{each}/task").iterdir():
            with contextlib.suppress(OSError):
                total += int((thread / "schedstat").read_text().split()[0])
    return total / 1e9


def tree_memory(pid: int) -> dict[str, float]:
    """Resident, proportional and anonymous MiB of the tree, and how many processes it is."""
    processes = tree(pid)
    resident = proportional = anonymous = 0
    for each in processes:
        with contextlib.suppress(OSError):
            resident += int(Path(f"/proc/{each}/statm").read_text().split()[1]) * _PAGE // 1024
            for line in Path(f"/proc/{each}/smaps_rollup").read_text().splitlines():
                proportional += int(line.split()[1]) if line.startswith("Pss:") else 0
                anonymous += int(line.split()[1]) if line.startswith("Anonymous:") else 0
    return {
        "procs": len(processes), "rss_mib": resident / 1024, "pss_mib": proportional / 1024,
        "anon_mib": anonymous / 1024,
    }  # fmt: skip


def wake_ups(pid: int) -> int:
    """How often the threads of *pid* went to sleep by themselves so far: what an idle process does when it polls."""
    total = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            for line in (thread / "status").read_text().splitlines():
                total += int(line.split()[1]) if line.startswith("voluntary_ctxt_switches") else 0
    return total


# ---- foreign load


def _machine_s() -> float:
    """CPU seconds that the machine was busy, or was kept from us by its host, since boot."""
    user, nice, system, _idle, _wait, irq, soft, steal = map(
        int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    )
    return (user + nice + system + irq + soft + steal) * _TICK_S


class Load:
    """While it is entered: the share of all cores (0 to 1) that processes other than this tree were burning."""

    other_cpu: float

    def __enter__(self) -> Load:
        self._began, self._machine, self._ours = time.monotonic(), _machine_s(), tree_cpu_s(os.getpid())
        return self

    def __exit__(self, *_: object) -> None:
        capacity = (time.monotonic() - self._began) * (os.cpu_count() or 1)
        others = (_machine_s() - self._machine) - (tree_cpu_s(os.getpid()) - self._ours)
        self.other_cpu = min(1.0, max(0.0, others / capacity)) if capacity else 0.0
