"""What differs from run to run is taken out of a page also where the machine was slow: minutes and hours, not seconds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mcpg.cli.render import took
from tests.conftest import SNAPSHOTS

from .story import plain

PAGES = [
    re.sub(r"^  ", "", page, flags=re.MULTILINE).rstrip("\n")
    for page in (SNAPSHOTS / "test_every_command.ambr").read_text().split("'''\n")[1::2]
]
WHILES = [took(ms) for ms in (4, 940, 9_000, 12_000, 61_000, 600_000, 3_600_000, 7_500_000)] + ["1m", "12m", "3h", "2d"]


@pytest.mark.parametrize("time", WHILES)
def test_a_page_is_the_same_however_long_it_took_and_however_long_ago_it_was(time: str) -> None:
    assert len(PAGES) > 100
    assert [page for page in PAGES if plain(page.replace("<while>", time), Path("/nowhere")) != page] == []
