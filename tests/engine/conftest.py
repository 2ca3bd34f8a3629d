"""The engine is tested on both databases; most of it with a provisioner that does as a test says."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.conftest import BOTH, Plane, StartPlane, audited
from tests.engine.fakes import Scripted


@pytest.fixture(params=BOTH)
def database(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def start_plane(start_plane: StartPlane, request: pytest.FixtureRequest) -> StartPlane:
    """Each is audited before it stops, but in a test that is marked `damages`: it writes what nobody may."""
    is_damaged = request.node.get_closest_marker("damages") is not None

    @asynccontextmanager
    async def start(*args: Any, **settings: Any) -> AsyncIterator[Plane]:
        async with start_plane(*args, **settings) as plane:
            yield plane
            if not is_damaged:
                await audited(plane)

    return start


@pytest.fixture
async def scripted() -> Scripted:
    return Scripted()


@pytest.fixture
async def on(scripted: Scripted, start_plane: StartPlane) -> AsyncIterator[Plane]:
    async with start_plane(given=scripted, local_gateways_max=3, apply_timeout_s=3600) as plane:
        yield plane  # no deadline comes to anybody's help
