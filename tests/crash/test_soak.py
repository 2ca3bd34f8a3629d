"""The soak in its short form: two dozen operations under kills, freezes and, on PostgreSQL, a network that is cut."""

from __future__ import annotations

import asyncio
import sys

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.peer


@pytest.mark.parametrize(("database", "operations"), [("sqlite", 24), ("postgres", 16)])
async def test_nothing_is_lost_and_nothing_left(database: str, operations: int) -> None:
    """Its own seed each time: what it says of it is in the failure."""
    argv = ["-m", "tools.soak", "--operations", str(operations), "--seconds", "25", "--database", database]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *argv, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()
    assert "nothing lost, nothing left, nothing twice" in said.decode()
