"""Rows of operations into which somebody wrote what is no JSON: what can be read is shown, all else is refused in words."""

from __future__ import annotations

import pytest

from tests.conftest import Plane

SPECS = {"no JSON": "{", "no object": "[]", "empty": "", "without an end": "[" * 100_000}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
async def test_an_operation_whose_spec_is_damaged_is_shown(plane: Plane, spec: str) -> None:
    ready = (await plane.publish("edge-1"))[-1]
    mine = ready["operation_id"]
    whole = await plane.operation(mine)
    await plane.edit("UPDATE operation SET spec=? WHERE id=?", spec, mine)
    lost = whole | {"damaged": ["spec"], "replicas": 0}
    for path in (f"operations/{mine}", f"operations/{mine[:8]}", f"orgs/default/operations/{mine}"):
        found = (await plane.client.get(f"/v1/{path}")).raise_for_status().json()
        assert found == lost, path
    for path in ("operations", "orgs/default/operations"):
        [found] = (await plane.client.get(f"/v1/{path}")).raise_for_status().json()
        assert found == lost | {"history": None}, path
    assert (await plane.client.get("/")).status_code == 200
    findings = (await plane.client.get("/v1/audit/verify")).json()["findings"]
    assert (mine, "the row's spec is not what its first line says") in [(f["subject"], f["what"]) for f in findings]


@pytest.mark.parametrize("path", ["explain", "export", "cancel-plan"])
async def test_what_needs_all_of_a_damaged_row_says_why_it_cannot(plane: Plane, path: str) -> None:
    mine = (await plane.publish("edge-1"))[-1]["operation_id"]
    await plane.edit("UPDATE operation SET spec='{' WHERE id=?", mine)
    answer = await plane.client.get(f"/v1/operations/{mine}/{path}")
    said = answer.json()
    assert (answer.status_code, said["code"], said["title"]) == (
        500,
        "damaged",
        f"the row of {mine} is damaged: it cannot be read",
    )
    assert said["hint"].startswith("mcpg-ctl audit verify ")


async def test_a_damaged_line_is_named(plane: Plane) -> None:
    mine = (await plane.publish("edge-1"))[-1]["operation_id"]
    await plane.edit("UPDATE journal SET facts='{' WHERE subject=? AND seq=3", mine)
    said = (await plane.client.get(f"/v1/operations/{mine}")).json()
    assert (said["code"], said["title"]) == ("damaged", f"line 3 of {mine} is damaged: it cannot be read")
