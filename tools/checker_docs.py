"""
docs/checker.md: its words from tools/checker.md, and what is checked, one real counterexample and the table of mutants from
the checker itself. `make mutants` writes it; tests/machines/test_check_mutations.py fails when what a sample comes to, or
anything but the mutants' fates, is not what this makes.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mcpg.cli import checker
from mcpg.machines import TABLES, check
from tools.checker_mutants import Fate, Mutant, judge, mutants

PAGE = Path(__file__).parents[1] / "docs" / "checker.md"
WORDS = Path(__file__).parent / "checker.md"
TABLE = "<!-- mutants -->"
EXAMPLE = "rule: order"  # the mutant whose counterexample is shown whole

RULES = {  # what each rule is, and where it is kept
    "expect": "an outcome is written only at the version it was decided on (`Fire.expect`, journal.py)",
    "fence": "and only by the engine that holds the lease",
    "order": "a process is started only after a last look at the row, under the instance's lock (`rolling._still_ours`)",
    "assigned": "a roll is put back only by the operation that runs on the instance (`writes.roll`)",
    "room": "the counter is compared in the transaction that takes the room (`writes.reserve`)",
    "registered": "so is the cluster's state",
    "occupy": "one operation occupies an instance, by compare-and-set (`writes.occupy_instance`)",
    "together": "a delete ends what it supersedes in its own transaction (`requests._superseded`)",
}


def page(fates: Sequence[Fate]) -> str:
    """The whole page, of every mutant's fate."""
    return without_table(fates).replace(TABLE, _table(fates))


def without_table(fates: Sequence[Fate]) -> str:
    """The page with a mark where the mutants' table goes: of *fates* it takes the example's alone."""
    parts = {"worlds": _worlds(), "invariants": _invariants(), "checks": _checks(), "example": _example(fates)}
    text = WORDS.read_text("utf-8")
    for name, part in parts.items():
        text = text.replace(f"<!-- {name} -->", part)
    return text


def _worlds() -> str:
    rows = [(w.name, w.about, ", ".join(sorted(w.machines)), str(check.run(w, TABLES).states)) for w in check.EVERY]
    return _rows(("world", "about", "machines", "states"), rows)


def _invariants() -> str:
    names = dict.fromkeys(name for names in check.INVARIANTS.values() for name in names)
    return "\n".join(f"* {name}" for name in names)


def _checks() -> str:
    return "\n".join(f"* {name}" for name in check.CHECKS)


def _example(fates: Sequence[Fate]) -> str:
    [found] = [f.product for f in fates if f.mutant.id.endswith(EXAMPLE)]
    assert found is not None
    data = {
        "world": found.world, "invariant": found.invariant, "words": found.words, "again": found.again,
        "timeline": [m._asdict() for m in found.timeline],
    }  # fmt: skip
    return "```\n" + "\n".join(line.rstrip() for line in checker.timeline(data)) + "\n```"


def _table(fates: Sequence[Fate]) -> str:
    kinds = Counter((f.mutant.kind, f.is_caught) for f in fates)
    caught = sum(f.is_caught for f in fates)
    head = f"{caught} of {len(fates)} are caught" + (
        ":" if caught == len(fates) else f", {len(fates) - caught} are missed:"
    )
    words = ", ".join(f"{count} × {kind}{'' if is_caught else ' missed'}" for (kind, is_caught), count in kinds.items())
    alone_only = [f for f in fates if f.alone and f.product is None]
    lines = [f"{head} {words}. {len(alone_only)} of them only by a check of the table alone.", ""]
    rows = [(*named(f.mutant), ", ".join(f.alone), _found(f)) for f in fates]
    return (
        "\n".join(lines) + "\n" + _rows(("machine", "without the", "which is", "the table alone", "in a world"), rows)
    )


def named(mutant: Mutant) -> tuple[str, str, str]:
    """The first cells of its row, which say what was taken away."""
    return mutant.machine or "protocol", mutant.kind, _what(mutant)


def row(fate: Fate) -> str:
    """Its line of the page's table."""
    return _line((*named(fate.mutant), ", ".join(fate.alone), _found(fate)))


def _what(mutant: Mutant) -> str:
    return f"{mutant.words}: {RULES[mutant.words]}" if mutant.kind == "rule" else mutant.words


def _found(fate: Fate) -> str:
    if fate.product is not None:
        return f"{fate.product.world}: {fate.product.invariant}"
    return "" if fate.is_caught else "**missed**"


def _rows(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(_line(cells) for cells in (head, ["---"] * len(head), *rows))


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_cell, cells))} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> int:
    PAGE.write_text(page([judge(m) for m in mutants()]), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
