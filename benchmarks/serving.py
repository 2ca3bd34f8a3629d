"""A control plane in a process of its own, as an operator starts it: `mcpg-ctl serve` on ports the kernel chooses."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.measure import CTL, Wrong, clean_environment, say, tree_cpu_s

READY_WITHIN_S = 60.0
POLL_S = 0.02


class Served:
    """A running server: its process, its URL, and what its start took (seconds on the clock, CPU seconds)."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, start_s: float, start_cpu_s: float) -> None:
        self.process = process
        self.pid = process.pid
        self.url = url
        self.start_s = start_s
        self.start_cpu_s = start_cpu_s

    def stop(self) -> float:
        """SIGTERM to the exit, in seconds. Raises Wrong when it does not end, or not with 0."""
        began = time.perf_counter()
        self.process.terminate()
        try:
            code = self.process.wait(15)
        except subprocess.TimeoutExpired:
            raise Wrong("the server did not end within 15 s of SIGTERM") from None
        took = time.perf_counter() - began
        if code != 0:
            raise Wrong(f"the server ended with exit code {code} on SIGTERM")
        return took


@contextlib.contextmanager
def serve(directory: Path, *flags: str) -> Iterator[Served]:
    """Start it on *directory* and wait until its API answers. Ends it in any case."""
    state = directory / "state"
    log = directory / "server.log"
    ports = ("--bind-http", "127.0.0.1:0", "--bind-grpc", "127.0.0.1:0")
    argv = [str(CTL), "serve", "--state-dir", str(state), *ports, *flags]
    with log.open("ab") as file:
        began = time.perf_counter()
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=clean_environment(), cwd=directory
        )
    try:
        while (url := _answers(state / "server.json", process.pid)) is None:
            if process.poll() is not None or time.perf_counter() - began > READY_WITHIN_S:
                say(log.read_text()[-3000:])
                raise Wrong(f"the server did not become ready (exit code {process.poll()})")
            time.sleep(POLL_S)
        yield Served(process, url, time.perf_counter() - began, tree_cpu_s(process.pid))
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def _answers(card: Path, pid: int) -> str | None:
    """The URL once the process of *pid* has written where it is and its probe says that the database answers too."""
    try:
        record: dict[str, Any] = json.loads(card.read_text())
        if record["pid"] != pid:
            return None
        url: str = record["http_url"]
        with urllib.request.urlopen(f"{url}/readyz", timeout=2) as answer:  # noqa: S310 - http on loopback
            return url if answer.status == 200 else None
    except (OSError, ValueError, urllib.error.URLError):
        return None
