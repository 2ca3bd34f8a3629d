"""A place for a control plane that is killed, and the process that forks its lives."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.crash.world import Site, Zygote, killed_ones


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    zygote = Zygote()
    yield zygote
    zygote.close()


MakeSite = Callable[..., Site]


@pytest.fixture
async def make_site(tmp_path: Path, zygote: Zygote, migrated: Path) -> AsyncIterator[MakeSite]:
    """`make_site(provisioner=…)`: a control plane's place with a migrated database, not running yet."""
    made: list[Site] = []

    def make(**settings: Any) -> Site:
        site = Site(zygote, tmp_path, **settings)
        site.state.mkdir(mode=0o700)
        shutil.copy(migrated, site.state / "cp-state.db")
        made.append(site)
        return site

    yield make
    for site in made:
        if site.is_running:
            await site.kill()
    killed_ones(tmp_path)
