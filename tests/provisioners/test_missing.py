"""What a start needs and does not find now: it is asked for where something must be started, and asked for again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mcpg.errors import TemporaryError
from mcpg.provisioners.local import Local

from .conftest import SLEEPER, Exits, order

Make = Callable[..., Local]
Fake = Callable[[str], str]


async def test_a_binary_that_is_gone_for_a_moment_is_missed_only_where_something_must_be_started(
    make: Make, fake: Fake, instance_id: str, exits: Exits
) -> None:
    binary = Path(fake(SLEEPER))
    away = binary.with_suffix(".away")
    local = make(str(binary))
    await local.start(exits)
    (first,) = await local.apply(order(instance_id))
    binary.rename(away)
    (same,) = await local.apply(order(instance_id, "op-2"))
    assert (same.pid, same.started) == (first.pid, False)
    with pytest.raises(TemporaryError, match="cannot be run"):
        await local.apply(order(instance_id, "op-3", replicas=2))
    away.rename(binary)
    kept, more = await local.apply(order(instance_id, "op-3", replicas=2))
    assert (kept.pid, kept.started, more.started) == (first.pid, False, True)


async def test_a_directory_that_cannot_be_written_may_be_mended(
    make: Make, fake: Fake, instance_id: str, state_dir: Path
) -> None:
    local = make(fake(SLEEPER))
    state_dir.mkdir()
    (state_dir / "gateways").write_text("in the way")
    with pytest.raises(TemporaryError, match="echo cannot be started"):
        await local.apply(order(instance_id))
    (state_dir / "gateways").unlink()
    (placed,) = await local.apply(order(instance_id))
    assert placed.started
