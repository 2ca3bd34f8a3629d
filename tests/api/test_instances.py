"""How one gateway is named: by uid, by name, by the beginning of its uid; and what is said of a name nobody has."""

from __future__ import annotations

import pytest

from mcpg.store.journal import Also
from tests.api.clusters import get, problem
from tests.conftest import Plane


async def a_gateway(plane: Plane, name: str) -> str:
    return str((await plane.publish(name))[-1]["coords"]["instance_uid"])


async def test_a_gateway_is_found_by_its_name_its_uid_and_the_beginning_of_that(plane: Plane) -> None:
    uid = await a_gateway(plane, "edge-1")
    found = [(await get(plane, f"/v1/instances/{ref}"))["instance_uid"] for ref in (uid, uid[:6], "edge-1")]
    assert found == [uid] * 3


async def test_a_beginning_that_several_have_names_them(plane: Plane) -> None:
    uids = [await a_gateway(plane, name) for name in ("edge-1", "edge-2")]
    refused = problem(await plane.client.get(f"/v1/instances/{uids[0][:6]}"), 400, "invalid_argument")
    assert (refused["title"], refused["detail"], refused["hint"]) == (
        f"{uids[0][:6]} may be any of 2 gateways",
        f"{uids[0]} (edge-1), {uids[1]} (edge-2)",
        "give its name, or more of its uid",
    )


async def test_a_name_that_is_anothers_uid_is_not_guessed(plane: Plane) -> None:
    """What enrols itself chooses its uid: it must not take the place of a gateway of ours."""
    first, second = [await a_gateway(plane, name) for name in ("edge-1", "edge-2")]
    await plane.db.writer.execute(Also("UPDATE instance SET instance_uid='edge-1' WHERE id=?", (second,)))
    refused = problem(await plane.client.get("/v1/instances/edge-1"), 400, "invalid_argument")
    assert refused["hint"] == f"say which: {first} or {second}"
    assert (await get(plane, f"/v1/instances/{second}"))["name"] == "edge-2"


@pytest.mark.parametrize(
    ("ref", "hint"),
    [
        ("egde-1", "did you mean: edge-1"),
        ("{uid:5}", "did you mean: edge-1"),
        ("mars", "names and uids: mcpg-ctl instance list -o wide"),
    ],
    ids=["misspelt", "too short", "nothing like it"],
)
async def test_a_name_that_nobody_has_leads_to_those_like_it(plane: Plane, ref: str, hint: str) -> None:
    uid = await a_gateway(plane, "edge-1")
    ref = ref.replace("{uid:5}", uid[:5])
    missing = problem(await plane.client.get(f"/v1/instances/{ref}"), 404, "not_found")
    assert (missing["title"], missing["detail"], missing["hint"]) == (
        f"no gateway {ref}",
        "no name or uid here is that, and no uid begins with it (at least 6 characters)",
        hint,
    )


async def test_a_deleted_gateway_is_not_found_and_that_is_said(plane: Plane) -> None:
    uid = await a_gateway(plane, "edge-1")
    await plane.delete(uid)
    missing = problem(await plane.client.get(f"/v1/instances/{uid}"), 404, "not_found")
    assert missing["detail"] == "it was deleted; it was edge-1"
    await a_gateway(plane, "edge-2")
    missing = problem(await plane.client.get("/v1/instances/edge-1"), 404, "not_found")
    assert missing["detail"].startswith("the last of that name is gone since 0 s")
    assert missing["hint"] == "mcpg-ctl operation list --name edge-1"
