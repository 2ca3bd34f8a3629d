"""
Result lines against goals.json: `python -m benchmarks.compare FILE…` prints one row a goal.

A goal with `against` is a ratio of two cases of the same session; one without is absolute. ok: met. MISS: not met.
NOISY: read off the clock while others burned more than a quarter of the machine, so that the verdict is in doubt; an
absolute goal that was met in spite of it is met. MISSING: not measured. With `orientation` a goal is shown and decides
nothing. Exit code: 1 for a MISS, else 3 for anything NOISY or MISSING, so that what was not measured never passes; else
0.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import NOISY, ROOT, median

GOALS = ROOT / "benchmarks" / "goals.json"
_KEYS = {"id", "name", "case", "metric", "against", "op", "goal", "unit", "orientation"}
_HOLDS_UNDER_LOAD = ("cpu", "_mib")  # CPU time and memory; everything else is read off the clock

Line = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Verdict:
    """One goal and what became of it."""

    status: str
    goal: str
    ours: str
    reference: str
    value: str
    limit: str
    noise: str
    binding: bool

    def row(self) -> tuple[str, ...]:
        shown = self.status if self.binding else f"({self.status})"
        return shown, self.goal, self.ours, self.reference, self.value, self.limit, self.noise


def goals() -> list[Line]:
    """goals.json; raises ValueError for a goal that could not be checked as it stands."""
    found: list[Line] = json.loads(GOALS.read_text())
    for goal in found:
        if not set(goal) <= _KEYS or goal["op"] not in ("<=", ">=") or ("against" in goal) == ("unit" in goal):
            raise ValueError(f"goals.json: {goal} is not a goal")
    return found


def read(files: Iterable[Path]) -> dict[str, list[Line]]:
    """Result lines by bench/case."""
    found: dict[str, list[Line]] = {}
    for file in files:
        for text in file.read_text().splitlines():
            if text.startswith("{"):
                line = json.loads(text)
                found.setdefault(f"{line['bench']}/{line['case']}", []).append(line)
    return found


def judge(goal: Line, results: dict[str, list[Line]]) -> Verdict:
    """The median of a case's lines, beside the median of the other case's."""
    metric, other = goal["metric"], goal.get("against")
    name, binding = f"{goal['id']} {goal['name']}", not goal.get("orientation", False)
    limit = f"{goal['op']} {goal['goal']:g}" + ("x" if other else f" {goal['unit']}")
    cases = [goal["case"], *([other] if other else [])]
    figures = [[line[metric] for line in results.get(case, []) if metric in line] for case in cases]
    absent = [case for case, found in zip(cases, figures, strict=True) if not found]
    if absent:
        return Verdict("MISSING", name, "", "", f"no {absent[0]}", limit, "", binding)
    values = [median(found) for found in figures]
    value = values[0] / values[1] if other else values[0]
    met = value <= goal["goal"] if goal["op"] == "<=" else value >= goal["goal"]
    noise = max(line.get("other_cpu", 1.0) for case in cases for line in results[case])
    in_doubt = bool(other) or goal["unit"] == "x" or not met  # others only slow us down
    noisy = noise > NOISY and in_doubt and not any(word in metric for word in _HOLDS_UNDER_LOAD)
    status = "NOISY" if noisy else "ok" if met else "MISS"
    measured = f"{values[0]:.4g} {metric}"
    beside = f"{values[1]:.4g}" if other else ""
    ratio = f"{value:.3g}" + ("x" if other else "")
    return Verdict(status, name, measured, beside, ratio, limit, f"{noise:.2f}", binding)


def report(files: Iterable[Path]) -> int:
    """Print the table; the exit code."""
    results = read(files)
    verdicts = [judge(goal, results) for goal in goals()]
    rows = [("", "goal", "ours", "reference", "is", "should be", "noise"), *(v.row() for v in verdicts)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    if any(not v.binding for v in verdicts):
        print("(in brackets: for orientation, decides nothing)")
    statuses = {v.status for v in verdicts if v.binding}
    return 1 if "MISS" in statuses else 3 if statuses - {"ok"} else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="JSON lines of one session")
    sys.exit(report(parser.parse_args().files))


if __name__ == "__main__":
    main()
