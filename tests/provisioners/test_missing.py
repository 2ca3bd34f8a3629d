"""What a start needs and does not find now: it is asked for where something must be started, and asked for again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mcpg.errors import TemporaryError
from mcpg.host.binary import OWN_VERSION
from mcpg.provisioners.local import Local
from mcpg.provisioners.program import is_real

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


@pytest.fixture
def on_path(tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An `mcpg` that is found on PATH, where there is no other."""
    path = tmp_path / "bin" / "mcpg"
    path.parent.mkdir()
    Path(fake(SLEEPER)).rename(path)
    monkeypatch.setenv("PATH", f"{path.parent}:/usr/bin:/bin")
    return path


@pytest.fixture
def found(state_dir: Path, tmp_path: Path) -> Callable[[], Local]:
    """Makes provisioners that find their gateway themselves, and have no cache to find it in."""

    def one() -> Local:
        return Local(
            gateways_dir=state_dir / "gateways", grpc_url="http://127.0.0.1:9", cache_dirs=(tmp_path / "none",)
        )

    return one


async def test_what_was_found_at_the_start_is_waited_for_and_not_replaced_by_our_own_agent(
    found: Callable[[], Local], on_path: Path, instance_id: str, exits: Exits
) -> None:
    local = found()
    await local.start(exits)
    assert (local.gateway_version, local.gateway_path) == ("fake 1.0", str(on_path))
    away = on_path.with_suffix(".away")
    on_path.rename(away)
    with pytest.raises(TemporaryError) as refused:
        await local.apply(order(instance_id))
    assert refused.value.what == f"the gateway binary {on_path} cannot be run"
    assert refused.value.cause.startswith("it is not there any more; the control plane chose it when it started")
    assert "restart the control plane" in refused.value.hint
    assert (await local.reach()).startswith(refused.value.what)
    away.rename(on_path)
    (placed,) = await local.apply(order(instance_id))
    assert (placed.started, is_real(local._shelf.replica(instance_id, 1))) == (True, True)
    await local.remove(instance_id)
    await local.stop()


async def test_a_start_without_the_real_gateway_leaves_what_ran_it_and_says_so(
    found: Callable[[], Local], on_path: Path, instance_id: str, exits: Exits, caplog: pytest.LogCaptureFixture
) -> None:
    first = found()
    await first.start(exits)
    await first.apply(order(instance_id))
    await first.stop()
    away = on_path.with_suffix(".away")
    on_path.rename(away)
    second = found()
    await second.start(exits)
    assert (second.gateway_version, second.gateway_path) == (OWN_VERSION, "")
    assert "1 replica(s) here run it: they are left as they are" in caplog.text
    with pytest.raises(TemporaryError, match="echo runs mcpg, and there was none on PATH when") as refused:
        await second.apply(order(instance_id, "op-2", replicas=2))
    assert refused.value.cause == "our own agent is not started in its place"
    away.rename(on_path)  # too late for this one: it has chosen
    with pytest.raises(TemporaryError, match="none on PATH"):
        await second.apply(order(instance_id, "op-2", replicas=2))
    await second.stop()
    third = found()
    await third.start(exits)
    kept, more = await third.apply(order(instance_id, "op-2", replicas=2))
    assert (kept.started, more.started) == (False, True)
    await third.remove(instance_id)
    await third.stop()
