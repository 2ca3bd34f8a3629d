"""Whether the local provisioner could start a gateway now: asked of the file system, answered in words, mended by itself."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mcpg.provisioners import replica
from mcpg.provisioners.local import Local

from .conftest import SLEEPER

Make = Callable[..., Local]
Fake = Callable[[str], str]


async def test_it_can_when_there_is_a_program_and_a_place_to_write(make: Make, fake: Fake, state_dir: Path) -> None:
    state_dir.mkdir()
    assert await make(fake(SLEEPER)).reach() == ""
    assert list(state_dir.iterdir()) == [], "it asks and writes nothing"


async def test_a_program_that_goes_is_named_and_its_return_is_seen(make: Make, fake: Fake, state_dir: Path) -> None:
    state_dir.mkdir()
    path = Path(fake(SLEEPER))
    local = make(str(path))
    path.rename(path.with_suffix(".away"))
    assert await local.reach() == (
        f"the gateway binary {path} cannot be run: there is no such file; the setting MCPG_CP_GATEWAY_BIN names it"
    )
    path.with_suffix(".away").rename(path)
    assert await local.reach() == ""


async def test_a_state_directory_that_is_gone_is_named(make: Make, fake: Fake, state_dir: Path) -> None:
    assert await make(fake(SLEEPER)).reach() == f"{state_dir}: No such file or directory"


async def test_a_full_disk_is_said(make: Make, fake: Fake, state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No disk of this machine is full: so a replica wants more of it than there is."""
    state_dir.mkdir()
    left = os.statvfs(state_dir)
    monkeypatch.setattr(replica, "ROOM_BYTES", (left.f_blocks + 1) * left.f_frsize)
    assert await make(fake(SLEEPER)).reach() == f"the disk of {state_dir} is full"
