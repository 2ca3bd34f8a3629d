"""A place for a control plane that is killed, and the process that forks its lives."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.crash.world import Site, Zygote, killed_ones
from tests.postgres import Server, serving


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    zygote = Zygote()
    yield zygote
    zygote.close()


@pytest.fixture(scope="session")
def postgres_of_crashes() -> Iterator[Callable[[], Server]]:
    """Asked for, a PostgreSQL: one for all tests that kill."""
    with ExitStack() as stack:
        yield cache(lambda: stack.enter_context(serving()))


MakeSite = Callable[..., Site]


@pytest.fixture
async def make_site(
    tmp_path: Path, zygote: Zygote, migrated: Path, postgres_of_crashes: Callable[[], Server]
) -> AsyncIterator[MakeSite]:
    """`make_site(database, provisioner=…)`: a control plane's place with a migrated database, not running yet."""
    made: list[Site] = []

    def make(database: str = "sqlite", **settings: Any) -> Site:
        url = postgres_of_crashes().fresh() if database == "postgres" else ""
        site = Site(zygote, tmp_path, url, **settings)
        site.state.mkdir(mode=0o700)
        if not url:
            shutil.copy(migrated, site.state / "cp-state.db")
        made.append(site)
        return site

    yield make
    for site in made:
        if site.is_running:
            await site.kill()
        if site.db_url:
            postgres_of_crashes().drop(site.db_url)
    killed_ones(tmp_path)
