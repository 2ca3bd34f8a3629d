"""`operation replay` of exports of a real control plane: whatever is changed in one is found, or said not to be covered."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mcpg.cli.replaying import judged
from mcpg.errors import McpgError

from ..conftest import Plane
from .checking import export as fixture_export
from .fake import Ctl

Export = dict[str, Any]
Path_ = tuple[str | int, ...]


@pytest.fixture
async def exports(plane: Plane) -> list[Export]:
    """Of a create, an update, one that found no room, its retry, and a delete."""
    config = "upstreams: []\n"
    made = [
        await plane.publish("edge-1", config=config),
        await plane.publish("edge-1", replicas=2, config=config + "# again\n"),
        await plane.publish("edge-2", region="mars-1"),
    ]
    again = await plane.steer(made[-1][-1]["operation_id"], "retry", "now there is room?")
    await plane.reaches(again["id"], "failed")
    made.append(await plane.delete(made[0][-1]["coords"]["instance_uid"]))
    ids = [ladder[-1]["operation_id"] for ladder in made] + [again["id"]]
    return [(await plane.client.get(f"/v1/operations/{each}/export")).raise_for_status().json() for each in ids]


def leaves(value: Any, at: Path_ = ()) -> Iterator[Path_]:
    """The way to every value that holds no other."""
    if isinstance(value, dict | list) and value:
        items: Any = value.items() if isinstance(value, dict) else enumerate(value)
        for key, each in items:
            yield from leaves(each, (*at, key))
    else:
        yield at


def other(value: Any) -> Iterator[Any]:
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int | float):
        yield value + 1
    elif isinstance(value, str):
        yield value + "x"
        if value:
            yield ""
    else:
        yield "something"


def changed(document: Export, way: Path_, value: Any) -> Export:
    document = copy.deepcopy(document)
    place: Any = document
    for key in way[:-1]:
        place = place[key]
    place[way[-1]] = value
    return document


def holds(document: Export) -> bool:
    try:
        return bool(judged(document)[0]["ok"])
    except McpgError:  # refused as no export
        return False


def unnoticed(document: Export) -> set[str]:
    """Every field of the export, definitions aside, that can be changed without a replay noticing."""
    found = set()
    for way in leaves({k: v for k, v in document.items() if k not in ("definitions", "format")}):
        place: Any = document
        for key in way:
            place = place[key]
        if any(holds(changed(document, way, value)) for value in other(place)):
            found.add(".".join(key for key in way if isinstance(key, str)))
    return found


async def test_whatever_is_changed_in_an_export_is_found_or_said_not_to_be_covered(exports: list[Export]) -> None:
    for document in exports:
        found, _ = judged(document)
        assert (found["ok"], found["divergence"]) == (True, None)
        assert unnoticed(document) <= set(found["not_covered"])
        assert set(found["not_covered"]) <= {
            "operation.cluster", "operation.region", "operation.duration_ms", "operation.finished_at",
            "inputs.configs.raw_sha256",
        }  # fmt: skip


async def test_a_whole_input_that_is_taken_out_is_found(exports: list[Export]) -> None:
    for document in exports:
        for key in ("spec", "previous", "configs"):
            for value in ({}, None, [], {"replicas": 9}):
                if value != document["inputs"][key]:
                    assert not holds(changed(document, ("inputs", key), value)), (key, value)
        assert not holds({k: v for k, v in document.items() if k != "inputs"})


async def test_up_to_a_line_what_came_later_is_not_covered(exports: list[Export]) -> None:
    for document in exports:
        found, _ = judged(document, until=2)
        assert (found["ok"], {"operation.state", "row"} <= set(found["not_covered"])) == (True, True)
        edited = changed(document, ("operation", "history", 1, "at"), "2020-01-01T00:00:00.000Z")
        assert judged(edited, until=2)[0]["divergence"]["why"] == "at of line 2 is not what line 2 says"


SAID = {
    "a name": (("operation", "name"), "edge-9", 1, "edge-1"),
    "a state": (("operation", "error"), "it was not me", 6, "(nothing)"),
    "an input": (("inputs", "spec", "replicas"), 3, 1, '"replicas":2'),
    "a time": (("operation", "history", 3, "at"), "2020-01-01T00:00:00.000Z", 4, "2026-11-22T10:21:07.087Z"),
}


@pytest.mark.parametrize("case", SAID)
def test_the_first_difference_is_told_like_any_other(acme: Ctl, tmp_path: Path, case: str) -> None:
    way, value, seq, expected = SAID[case]
    (tmp_path / "op.json").write_text(json.dumps(changed(fixture_export(), way, value)))
    ran = acme("operation", "replay", str(tmp_path / "op.json"))
    assert (ran.code, f"is not what line {seq} says (header)" in ran.out, expected in ran.out) == (1, True, True)
    found = acme("operation", "replay", str(tmp_path / "op.json"), "-o", "json").json["divergence"]
    assert (found["check"], found["seq"]) == ("header", seq)
