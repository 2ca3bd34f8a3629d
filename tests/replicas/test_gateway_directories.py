"""Control planes of one machine keep their gateways in one directory: from two, every gateway would run twice."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from mcpg.errors import Refused
from mcpg.store import lease, reads
from mcpg.store.journal import Also
from tests.replicas.conftest import Replica, running

SLEEPS = '#!/bin/sh\n[ "$1" = --version ] && { echo "fake 1.0"; exit 0; }\nexec sleep 3600\n'


@pytest.fixture
def sleeper(tmp_path: Path) -> str:
    """A gateway that never enrols: its operation waits, and its files are there."""
    path = tmp_path / "sleeper"
    path.write_text(SLEEPS)
    path.chmod(0o755)
    return str(path)


async def plane(state: Path, db_url: str, gateways: Path, sleeper: str) -> Refused | None:
    """Start a control plane and stop it again: why it did not start, or None."""
    try:
        async with running(
            state, None, db_url=db_url, provisioner="local", gateways_dir=str(gateways), gateway_bin=sleeper
        ):
            return None
    except Refused as refused:
        return refused


async def test_a_second_control_plane_of_a_machine_with_another_directory_is_refused(
    tmp_path: Path, db_url: str, sleeper: str
) -> None:
    theirs, ours = tmp_path / "gateways", tmp_path / "b" / "gateways"
    async with running(
        tmp_path / "a", None, db_url=db_url, provisioner="local", gateways_dir=str(theirs), gateway_bin=sleeper
    ) as first:
        me = first.engine.leases.me
        refused = await plane(tmp_path / "b", db_url, ours, sleeper)
        assert refused is not None
        assert refused.what == (
            f"another control plane on this machine keeps its gateways in {theirs}, this one would in {ours}"
        )
        assert refused.cause.startswith(f"{me.id} (pid {me.pid}, {first.control.started.http_url}) was heard ")
        assert refused.cause.endswith("from two directories every gateway would run twice")
        assert refused.hint.startswith(f"mcpg-ctl serve --gateways-dir {theirs} ")
        assert [row["id"] for row in await reads.replicas(first.db)] == [me.id]  # it took nothing, and is not known
        (tmp_path / "link").symlink_to(theirs)
        theirs.mkdir(exist_ok=True)
        assert await plane(tmp_path / "b", db_url, tmp_path / "link", sleeper) is None
    assert (
        await plane(tmp_path / "b", db_url, ours, sleeper) is None
    )  # the first has stopped, and nothing of it is left


async def test_gateways_that_lie_elsewhere_on_this_machine_are_not_forgotten(
    tmp_path: Path, db_url: str, sleeper: str
) -> None:
    """Also for the same state directory that is given another directory of gateways, and on SQLite."""
    theirs = tmp_path / "gateways"

    def with_gateways() -> AbstractAsyncContextManager[Replica]:
        return running(
            tmp_path / "a", None, db_url=db_url, provisioner="local", gateways_dir=str(theirs), gateway_bin=sleeper
        )

    async with with_gateways() as first:
        operation = await first.ask("edge-1")
        await first.sees(operation, "confirming")
    for state in ("a", "b"):
        refused = await plane(tmp_path / state, db_url, tmp_path / "other", sleeper)
        assert refused is not None
        assert refused.what.startswith(f"gateways of this database are kept in {theirs}, ")
        assert "started edge-1 from there" in refused.cause
        assert f"--gateways-dir {theirs}" in refused.hint
    async with with_gateways() as again:
        await delete(again, operation)
    assert await plane(tmp_path / "b", db_url, tmp_path / "other", sleeper) is None


async def delete(replica: Replica, operation: str) -> None:
    """Take the create back: its process ends, and its files go."""
    answer = await replica.client.post(f"/v1/orgs/default/operations/{operation}/cancel")
    assert answer.status_code in (200, 202), answer.text
    await replica.sees(operation, "cancelled")


async def test_of_two_that_start_at_once_one_is_refused(tmp_path: Path, db_url: str, sleeper: str) -> None:
    """The look beforehand saw neither; the transaction that makes a start known sees the other."""
    async with running(
        tmp_path / "a", None, db_url=db_url, provisioner="local", gateways_dir=str(tmp_path / "x"), gateway_bin=sleeper
    ) as first:
        me, now = first.engine.leases.me, first.engine.clock()
        other = lease.Myself("rep-other", "e-other", "here", 1, "1", "", "", "local", me.machine, str(tmp_path / "y"))
        clock = first.db.clock_sql
        with pytest.raises(Refused, match="started a moment earlier"):
            await first.db.writer.execute(lease.agrees(other, clock), *lease.introduce(other, now, now, clock))
        assert [row["id"] for row in await reads.replicas(first.db)] == [me.id]


async def test_only_one_machine_runs_gateways(tmp_path: Path, db_url: str, sleeper: str) -> None:
    """Neither could see what the other starts. One that runs none is welcome, and so is who comes when the other is gone."""
    async with running(
        tmp_path / "a", None, db_url=db_url, provisioner="local", gateways_dir=str(tmp_path / "x"), gateway_bin=sleeper
    ) as first:
        first.freeze()
        elsewhere = Also("UPDATE replica SET machine='m/elsewhere',host='elsewhere',gateways_dir='/srv/gateways'")
        await first.db.writer.execute(elsewhere)
        refused = await plane(tmp_path / "b", db_url, tmp_path / "y", sleeper)
        assert refused is not None
        assert refused.what == "a control plane on another machine, elsewhere, runs the gateways of this database"
        assert "--provisioner none" in refused.hint
        async with running(tmp_path / "c", None, db_url=db_url, provisioner="none"):
            pass
        await first.db.writer.execute(Also("UPDATE replica SET seen_at=1 WHERE host='elsewhere'"))
        assert await plane(tmp_path / "b", db_url, tmp_path / "y", sleeper) is None


async def test_of_two_machines_that_start_at_once_one_is_refused(tmp_path: Path, db_url: str, sleeper: str) -> None:
    async with running(
        tmp_path / "a", None, db_url=db_url, provisioner="local", gateways_dir=str(tmp_path / "x"), gateway_bin=sleeper
    ) as first:
        now, clock = first.engine.clock(), first.db.clock_sql
        other = lease.Myself("rep-2", "e-2", "there", 1, "1", "", "", "local", "m/there", str(tmp_path / "x"))
        with pytest.raises(Refused, match="on another machine"):
            await first.db.writer.execute(lease.agrees(other, clock), *lease.introduce(other, now, now, clock))
