"""
What it costs to type a command: CPU of `mcpg-ctl` beside the bare interpreter of its environment and beside kubectl.

Every command runs `--runs` times, all of them in turn, so that a slow minute of the machine hits each alike; the figure
is the median of CPU seconds from wait4, children included, which holds on a busy machine. `provision history` asks a
running server with 20 operations. Each answer is checked. kubectl is taken from PATH, or from MCPG_BENCH_KUBECTL.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.measure import (
    CTL,
    PYTHON,
    Load,
    Ran,
    Wrong,
    bounded,
    clean_environment,
    emit,
    median,
    run,
    say,
    scratch,
)
from benchmarks.serving import Served, serve

OPERATIONS = 20
BARE = "python(venv) -c pass"
KUBECTL_MISSING = "kubectl is missing: apt-get update && apt-get install -y kubernetes-client"


@dataclass(frozen=True, slots=True)
class Typed:
    """A command under the name of its case, and what its stdout must be like."""

    case: str
    argv: tuple[str, ...]
    right: Callable[[str], bool]


def kubectl() -> str | None:
    """The kubectl to compare with: the one named in the environment, or the one on PATH."""
    return os.environ.get("MCPG_BENCH_KUBECTL") or shutil.which("kubectl")


def commands(url: str) -> list[Typed]:
    """What is measured; the first is the base of the ratios."""
    ctl = str(CTL)
    found = [
        Typed(BARE, (str(PYTHON), "-c", "pass"), lambda out: out == ""),
        Typed("mcpg-ctl --version", (ctl, "--version"), lambda out: out.startswith("mcpg-ctl ")),
        Typed("mcpg-ctl --help", (ctl, "--help"), lambda out: "Commands:" in out and "quickstart" in out),
        Typed("mcpg-ctl group --help", (ctl, "provision", "--help"), lambda out: "history" in out),
        Typed("mcpg-ctl leaf --help", (ctl, "provision", "create", "--help"), lambda out: "--replicas" in out),
        Typed(
            "mcpg-ctl history",
            (ctl, "provision", "history", "--org", "default", "--cp-url", url),
            lambda out: sum("op-" in line and "ready" in line for line in out.splitlines()) == OPERATIONS,
        ),
    ]
    if (peer := kubectl()) is not None:
        leaf = (peer, "create", "deployment", "--help")
        found.append(Typed("kubectl --help", (peer, "--help"), lambda out: "kubectl" in out))
        found.append(Typed("kubectl leaf --help", leaf, lambda out: "--image" in out))
    return found


def fill(server: Served) -> None:
    """OPERATIONS gateways through the API, each to the end of its ladder."""
    url = f"{server.url}/v1/orgs/default/workspaces/default/environments/default/gateways/"
    for number in range(OPERATIONS):
        body = json.dumps({"name": f"bench-{number}"}).encode()
        request = urllib.request.Request(url, body, {"content-type": "application/json"})  # noqa: S310 - http on loopback
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            ladder = answer.read().decode()
        if "ready" not in ladder:
            raise Wrong(f"gateway bench-{number} did not become ready: {ladder[-500:]}")


def checked(typed: Typed, env: dict[str, str]) -> Ran:
    """Run it once. Raises Wrong for an exit code that is not 0 and for an answer that is not right."""
    ran = run(typed.argv, env)
    if ran.code != 0:
        raise Wrong(f"{typed.case}: exit code {ran.code}")
    if not typed.right(ran.out):
        raise Wrong(f"{typed.case}: not the expected answer:\n{ran.out[-2000:]}")
    return ran


def measure(runs: int) -> None:
    """Fill a server, run everything in turn, print one line a command."""
    env = clean_environment()
    with scratch() as directory, serve(directory, "--provisioner", "noop", "--local-gateways-max", "1000") as server:
        fill(server)
        typed = commands(server.url)
        for each in typed:
            checked(each, env)  # a warm page cache and compiled modules, as for whoever typed it before
        taken: dict[str, list[Ran]] = {each.case: [] for each in typed}
        with Load() as load:
            for _ in range(runs):
                for each in typed:
                    taken[each.case].append(checked(each, env))
        server.stop()
    programs = {each.case: each.argv[0] for each in typed}
    base_cpu = median([r.cpu_s for r in taken[BARE]])
    base_wall = median([r.wall_s for r in taken[BARE]])
    for case, ran in taken.items():
        wall, cpu = median([r.wall_s for r in ran]), median([r.cpu_s for r in ran])
        emit(
            "cli", case, program=programs[case], wall_ms=wall * 1e3, wall_min_ms=min(r.wall_s for r in ran) * 1e3,
            cpu_ms=cpu * 1e3, cpu_min_ms=min(r.cpu_s for r in ran) * 1e3, wall_x=wall / base_wall, cpu_x=cpu / base_cpu,
            rc=0, other_cpu=load.other_cpu, runs=len(ran),
        )  # fmt: skip
    if kubectl() is None:
        say(f"MISSING {KUBECTL_MISSING}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15, help="of every command, at least 10")
    runs = max(10, parser.parse_args().runs)
    bounded(60 + 10 * runs, lambda: measure(runs))


if __name__ == "__main__":
    main()
