"""
Every move, guard, deadline, undo, outcome and rule is taken away, one at a time: something notices each, and docs/checker.md
says what. To judge all of them takes most of a minute (`make mutants`, which writes the page); here a sample of each kind.
"""

from __future__ import annotations

import re

import pytest

from tools import checker_docs
from tools.checker_mutants import Fate, Mutant, judge, mutants

EVERY = list(mutants())
[EXAMPLE] = [m for m in EVERY if m.id.endswith(checker_docs.EXAMPLE)]
SAMPLE = [*EVERY[::11], EXAMPLE]


FATES: dict[str, Fate] = {}


def fate(mutant: Mutant) -> Fate:
    """What noticed it; judged once a worker."""
    if mutant.id not in FATES:
        FATES[mutant.id] = judge(mutant)
    return FATES[mutant.id]


def test_no_two_mutants_are_one() -> None:
    ids = [m.id for m in EVERY]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("mutant", SAMPLE, ids=lambda m: m.id)
def test_something_notices_and_the_docs_say_what(mutant: Mutant) -> None:
    assert fate(mutant).is_caught
    assert checker_docs.row(fate(mutant)) in checker_docs.PAGE.read_text("utf-8").splitlines(), "run: make mutants"


def test_the_docs_have_a_row_for_each_and_count_them() -> None:
    before, after = checker_docs.without_table([fate(EXAMPLE)]).split(checker_docs.TABLE)
    page = checker_docs.PAGE.read_text("utf-8")
    assert page.startswith(before), "run: make mutants"
    assert page.endswith(after)
    head, _, *lines = page[len(before) : len(page) - len(after)].splitlines()
    rows = [re.split(r" (?<!\\)\| ", line.strip("| ")) for line in lines[2:]]
    assert [row[:3] for row in rows] == [[c.replace("|", "\\|") for c in checker_docs.named(m)] for m in EVERY]
    caught = [line for line in lines[2:] if "**missed**" not in line]
    assert head.startswith(f"{len(caught)} of {len(EVERY)} are caught")
