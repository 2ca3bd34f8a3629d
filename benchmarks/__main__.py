"""
`python -m benchmarks`: every benchmark, one after the other, and the table of goals.

The result lines go to .cache/bench/<UTC time>.jsonl. Exit code: as benchmarks.compare gives it, and 1 when a benchmark
found its own result to be wrong. `python -m benchmarks cli_start journal` runs those only.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
from datetime import UTC, datetime

from benchmarks import compare
from benchmarks.cli_start import KUBECTL_MISSING, kubectl
from benchmarks.measure import CACHE, ROOT, clean_environment, file_system, say

ALL = (
    "cli_start",
    "commands",
    "server",
    "journal",
    "postgres",
    "ladder",
    "allocator",
    "creates",
    "beside_dbos",
    "recover",
    "history",
    "resting",
    "replay",
)
LONGEST_S = 900  # of one benchmark; each has a bound of its own below it


def one(name: str) -> tuple[str, bool]:
    """Its stdout, and whether it ended well."""
    say(f"{datetime.now(UTC):%H:%M:%S} {name}")
    process = subprocess.Popen(
        [sys.executable, "-m", f"benchmarks.{name}"], cwd=ROOT, env=clean_environment(), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        out, _ = process.communicate(timeout=LONGEST_S)
    except BaseException as exc:
        process.terminate()  # it ends what it started before it goes
        out, _ = process.communicate()
        if not isinstance(exc, subprocess.TimeoutExpired):
            raise
    if process.returncode != 0:
        say(f"{name}: exit code {process.returncode}")
    return out, process.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    which = f"{', '.join(ALL)}; all when none is named"
    parser.add_argument("names", nargs="*", choices=[*ALL, []], metavar="NAME", help=which)
    names = parser.parse_args().names or list(ALL)
    CACHE.mkdir(parents=True, exist_ok=True)
    file = CACHE / f"{datetime.now(UTC):%Y-%m-%dT%H%M%SZ}.jsonl"
    wrong = []
    with file.open("w") as out:
        for name in names:
            text, well = one(name)
            out.write(text)
            out.flush()
            wrong += [] if well else [name]
    print(f"{platform.node()}: {platform.platform()}, Python {platform.python_version()}, {file_system(CACHE)}")
    print(f"{file.relative_to(ROOT)}\n")
    code = compare.report([file])
    if kubectl() is None:
        print(KUBECTL_MISSING)
    for name in wrong:
        print(f"FAILED {name}: see above")
    return 1 if wrong else code


if __name__ == "__main__":
    sys.exit(main())
