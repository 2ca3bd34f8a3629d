"""
kill -9 at every commit and every effect, before and after, on a real control plane: it comes back and all is well.

One test a point: scenarios.py says what is being done, world.py kills and starts, invariants.py looks at what is left.
"""

from __future__ import annotations

import os
import signal

import pytest

from mcpg import faults
from mcpg.machines import TABLES
from tests.crash.conftest import MakeSite
from tests.crash.invariants import broken
from tests.crash.scenarios import NOT_REACHED, SCENARIOS, Scenario
from tests.crash.world import Died, Site

pytestmark = pytest.mark.peer
WHERE = [(point, name) for name, scenario in SCENARIOS.items() for point in scenario.points]
# All of them on both databases take minutes: `make crash`. In every run of the suite each scenario dies once.
ALL = [("sqlite", *each) for each in WHERE] + [("postgres", *each) for each in WHERE]
LAST = [("sqlite", scenario.points[-1], name) for name, scenario in SCENARIOS.items()]
LAST += [("postgres", SCENARIOS[name].points[-1], name) for name in ("start", "create", "retry", "resume")]
MATRIX = ALL if os.environ.get("MCPG_TEST_CRASH") == "all" else LAST


def test_every_point_is_in_the_matrix_once_or_says_why_not() -> None:
    """A new event, effect or place has its points at once; this fails until a scenario reaches them."""
    assert sorted([point for point, _ in WHERE] + list(NOT_REACHED)) == sorted(faults.points(TABLES))


@pytest.mark.parametrize(("database", "point", "name"), MATRIX, ids=[f"{db}-{point}" for db, point, _ in MATRIX])
async def test_killed(make_site: MakeSite, database: str, point: str, name: str) -> None:
    """Killed at this point, it comes back, ends what it began by itself, and whoever asks again finds what he asked for."""
    scenario = SCENARIOS[name]
    site = make_site(database, **scenario.settings)
    armed = f"{point}:{scenario.at.get(point, 1)}"
    await dies(site, scenario, ",".join(filter(None, [armed, scenario.fault])))
    assert f"{point}: kill" in site.said
    await comes_back(site, scenario)


async def dies(site: Site, scenario: Scenario, fault: str) -> None:
    """The script, until the control plane ends by SIGKILL."""
    if await site.start(fault):
        try:
            await scenario.script(site)
        except Died:
            pass
        else:
            assert not site.is_running, f"{fault} was never reached"
    assert await site.ended() == -signal.SIGKILL, site.said[-3000:]


async def comes_back(site: Site, scenario: Scenario) -> None:
    """Started again: all comes to rest with nobody's help, the client's own script finds its operations, nothing is wrong."""
    assert await site.start(), site.said[-3000:]
    try:
        await site.settled()
        await scenario.script(site)
        await site.settled()
    except Died as exc:
        running = "it runs" if site.is_running else f"it ended with {await site.ended()}"
        pytest.fail(f"nobody armed anything, and {exc}: {running}\n{site.said[-4000:]}")
    assert await broken(site) == [], site.said[-4000:]
