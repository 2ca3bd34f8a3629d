"""The API is tested on both databases."""

import pytest

from tests.conftest import BOTH


@pytest.fixture(params=BOTH)
def database(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name
