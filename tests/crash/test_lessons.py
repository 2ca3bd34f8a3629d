"""What others learned the hard way about crashes, held against the real control plane that is killed."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any

import pytest

from mcpg.store.journal import LEASE_S
from tests.crash.conftest import MakeSite
from tests.crash.invariants import broken, read
from tests.crash.scenarios import ECHO, LOCAL, Scenario, create, create_and_delete
from tests.crash.test_matrix import dies
from tests.crash.world import Site, gateways

pytestmark = pytest.mark.peer


async def only_operation(site: Site, kind: str) -> dict[str, Any]:
    [row] = [row for row in (await read(site))["operation"] if row["kind"] == kind]
    return row


async def test_lesson_2_a_recovery_that_is_cut_short_is_begun_again(make_site: MakeSite) -> None:
    """What a start takes up again is found by a look at the rows, at every start: killed in the middle of that, too."""
    site = make_site()
    await dies(site, Scenario(create, ()), "effect:after:apply")
    for point in ("start:before:adopt", "start:after:adopt", "commit:before:statements:2", "start:after:takeover"):
        assert not await site.start(point), point
        assert await site.ended() == -9
    assert await site.start()
    [operation] = await site.settled()
    assert (operation["state"], await broken(site)) == ("ready", [])


async def test_lesson_3_a_lease_belongs_to_a_start_and_not_to_a_name(make_site: MakeSite) -> None:
    """The same state directory on the same host, started again, is another owner: what the old one held is taken over."""
    site = make_site(apply_timeout_s=60)
    fault = "effect:before:apply:1+:again"
    await dies(site, Scenario(create, ()), f"{fault},commit:after:provision.retry")
    before = await only_operation(site, "create")
    assert await site.start(f"{fault},commit:before:provision.retry") in (True, False)
    assert await site.ended() == -9
    after = await only_operation(site, "create")
    assert (after["state"], before["state"]) == ("applying", "applying")
    assert after["lease_owner"] not in (None, before["lease_owner"])
    assert await site.start()
    [operation] = await site.settled()
    assert (operation["state"], await broken(site)) == ("ready", [])


async def test_lesson_8_terminal_only_on_positive_evidence(make_site: MakeSite) -> None:
    """Killed before it stopped anything, a delete is not over and its process runs; it is over when that is gone."""
    site = make_site(**LOCAL)
    await dies(site, Scenario(create_and_delete, ()), "effect:before:remove")
    assert (await only_operation(site, "delete"))["state"] == "deleting"
    assert len(gateways(site.folder)) == 2
    assert await site.start()
    await site.settled()
    assert (await only_operation(site, "delete"))["state"] == "deleted"
    assert (gateways(site.folder), await broken(site)) == ([], [])


async def test_lesson_16_asked_for_is_not_seen(make_site: MakeSite) -> None:
    """Its processes ended, and the control plane died before it had looked: the room is not free until it has."""
    site = make_site(**LOCAL)
    await dies(site, Scenario(create_and_delete, ()), "commit:before:teardown.gone")
    tables = await read(site)
    assert (await only_operation(site, "delete"))["state"] == "confirming"
    assert gateways(site.folder) == []
    assert [row["places"] for row in tables["reservation"]] == [2]
    assert await site.start()
    await site.settled()
    assert (await read(site))["reservation"] == []
    assert await broken(site) == []


async def test_lesson_36_a_restart_does_not_wait_out_its_own_lease(make_site: MakeSite) -> None:
    """What the killed start had leased, were it for an hour, is ended before that lease has run out; the key finds it."""
    site = make_site()
    await dies(site, Scenario(create, ()), "effect:after:apply")
    lease = await only_operation(site, "create")
    assert lease["lease_until"] - lease["updated_at"] == LEASE_S * 1e6
    until = lease["lease_until"] + 3_600_000_000
    with closing(sqlite3.connect(site.state / "cp-state.db")) as db, db:
        assert db.execute("UPDATE operation SET lease_until=? WHERE id=?", (until, lease["id"])).rowcount == 1
    assert await site.start()
    await site.settled()
    event = await site.create("create", "edge-1", config_toml=ECHO, replicas=2)
    done = await only_operation(site, "create")
    assert (event["state"], done["id"]) == ("ready", lease["id"])
    assert done["finished_at"] < until
