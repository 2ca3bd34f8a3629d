"""
Every move, guard, deadline, undo, outcome and rule is taken away, one at a time: something notices each, and docs/checker.md
says what. All of them take about a minute; here a sample of each kind, so that `make check` stays quick.
"""

from __future__ import annotations

import pytest

from tools import checker_docs
from tools.checker_mutants import judge, mutants

EVERY = list(mutants())
SAMPLE = EVERY[::11]


def test_no_two_mutants_are_one() -> None:
    ids = [m.id for m in EVERY]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("mutant", SAMPLE, ids=lambda m: m.id)
def test_something_notices(mutant: checker_docs.Mutant) -> None:
    assert judge(mutant).is_caught


@pytest.mark.long
def test_docs_say_what_notices_each() -> None:
    """Explores for every mutant: about a minute on one core. `make mutants` writes the page anew."""
    assert checker_docs.PAGE.read_text("utf-8") == checker_docs.page([judge(m) for m in EVERY]), "run: make mutants"
