"""An operation that somebody damaged does not keep the others waiting: it is left alone, and said to be."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.conftest import StartPlane
from tests.engine.fakes import Scripted

pytestmark = pytest.mark.damages


async def test_a_start_goes_on_with_what_can_be_read(
    tmp_path: Path, scripted: Scripted, start_plane: StartPlane, caplog: pytest.LogCaptureFixture
) -> None:
    scripted.hold = asyncio.Event()
    async with start_plane(tmp_path / "s", given=scripted) as first:
        streams = [asyncio.create_task(first.publish(name)) for name in ("edge-1", "edge-2")]

        async def both() -> bool:
            return len({order.operation_id for order in scripted.orders}) == 2

        await first.until(both, "both are being applied")
        lost, whole = dict.fromkeys(order.operation_id for order in scripted.orders)
        await first.edit("UPDATE operation SET spec='{' WHERE id=?", lost)
    await asyncio.gather(*streams, return_exceptions=True)
    scripted.hold = None
    async with start_plane(tmp_path / "s", given=scripted) as second:

        async def ready() -> bool:
            return (await second.operation(whole))["state"] == "ready"

        await second.until(ready, "the other went on")
        assert (await second.operation(lost))["damaged"] == ["spec"]
    [said] = [r.getMessage() for r in caplog.records if "left alone" in r.getMessage()]
    assert said.startswith(f"the row of {lost} is damaged")
    assert said.endswith("mcpg-ctl audit verify")
