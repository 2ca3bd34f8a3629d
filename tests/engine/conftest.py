"""The engine is tested on both databases; most of it with a provisioner that does as a test says."""

from collections.abc import AsyncIterator

import pytest

from tests.conftest import BOTH, Plane, StartPlane
from tests.engine.fakes import Scripted


@pytest.fixture(params=BOTH)
def database(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
async def scripted() -> Scripted:
    return Scripted()


@pytest.fixture
async def on(scripted: Scripted, start_plane: StartPlane) -> AsyncIterator[Plane]:
    async with start_plane(given=scripted, local_gateways_max=3, apply_timeout_s=3600) as plane:
        yield plane  # no deadline comes to anybody's help
