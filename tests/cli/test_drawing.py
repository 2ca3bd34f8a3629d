"""`machine show NAME -o svg`: every state and every move is in the picture, nothing lies on anything else, nothing is obeyed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from syrupy.assertion import SnapshotAssertion
from syrupy.extensions.single_file import SingleFileSnapshotExtension, WriteMode

from mcpg.cli.drawing import svg
from mcpg.machines import TABLES
from mcpg.machines.table import Table

from . import bodies
from .conftest import SNAPSHOTS
from .fake import Ctl, Fake, data

SVG = "{http://www.w3.org/2000/svg}"
Box = tuple[float, float, float, float]


class Picture(SingleFileSnapshotExtension):
    """One file a snapshot, which a browser shows."""

    file_extension = "svg"
    _write_mode = WriteMode.TEXT

    @classmethod
    def dirname(cls, *, test_location: Any) -> str:
        return str(SNAPSHOTS / Path(test_location.filepath).stem)


def as_wire(table: Table) -> dict[str, Any]:
    """A shipped machine as GET /v1/machines/:name has it, as far as a picture needs it."""
    defined = table.definition()
    moves = [dict(zip(("source", "event", "guard", "dest"), move, strict=True)) for move in defined["moves"]]
    states = [{"name": name, "rest": defined["rests"].get(name, {"kind": ""})} for name in defined["states"]]
    return {**defined, "definition": table.label, "title": table.title, "states": states, "moves": moves}


def drawn(machine: dict[str, Any]) -> str:
    return "\n".join(svg(machine)) + "\n"


def read(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)  # noqa: S314 - it is ours


def texts(root: ElementTree.Element) -> list[str]:
    return ["".join(each.itertext()) for each in root.iter(f"{SVG}text")]


def boxes(root: ElementTree.Element) -> list[Box]:
    """Of states (without the second line of a final one) and of words: left, top, right, bottom."""
    found = []
    for each in root.iter(f"{SVG}rect"):
        if each.get("fill") == "none" or each.get("x") is None or each.get("width") == "12":
            continue
        x, y, width, height = (float(each.attrib[name]) for name in ("x", "y", "width", "height"))
        found.append((x, y, x + width, y + height))
    return found


def overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] - 0.2 and b[0] < a[2] - 0.2 and a[1] < b[3] - 0.2 and b[1] < a[3] - 0.2  # they are rounded


def check(machine: dict[str, Any]) -> ElementTree.Element:
    """What holds of every picture."""
    root = read(drawn(machine))
    said, found = texts(root), boxes(root)
    names = [each["name"] for each in machine["states"]]
    assert set(names) <= set(said)
    for move in machine["moves"]:
        words = move["event"] + (f" [{move['guard']}]" if move["guard"] else "")
        assert (f"↻ {words}" if move["source"] == move["dest"] else words) in said
    assert [(a, b) for a, b in combinations(found, 2) if overlap(a, b)] == []
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    assert all(a[0] >= 0 and a[1] >= 0 and a[2] <= width and a[3] <= height for a in found)
    pairs = {(m["source"], m["dest"]) for m in machine["moves"] if m["source"] != m["dest"]}
    [lines] = list(root.iter(f"{SVG}g"))
    assert len(list(lines)) == len(pairs)
    return root


@pytest.mark.parametrize("name", TABLES)
def test_the_picture_of_a_machine(name: str, snapshot: SnapshotAssertion) -> None:
    machine = as_wire(TABLES[name])
    root = check(machine)
    title = root.find(f"{SVG}title")
    assert title is not None
    assert title.text == TABLES[name].label
    assert drawn(machine) == snapshot(extension_class=Picture)


@st.composite
def machines(draw: st.DrawFn) -> dict[str, Any]:
    names = draw(st.lists(st.text("abc<&é", min_size=1, max_size=9), min_size=1, max_size=7, unique=True))
    one, guard = st.sampled_from(names), st.sampled_from(["", "is_so"])
    move = st.fixed_dictionaries(
        {"source": one, "event": st.text("xyz>", min_size=1, max_size=9), "dest": one, "guard": guard}
    )
    moves = draw(st.lists(move, max_size=14))
    kind = st.sampled_from(["work", "wait", "owner", ""])
    states = [{"name": name, "rest": {"kind": draw(kind)}} for name in names]
    return {
        "definition": "m@1",
        "title": "<t>",
        "initial": names[0],
        "final": [names[-1]],
        "states": states,
        "moves": moves,
    }


@given(machines())
@settings(max_examples=150, deadline=None)
def test_whatever_the_machine_nothing_lies_on_anything_else(machine: dict[str, Any]) -> None:
    check(machine)


def test_the_same_definition_gives_the_same_bytes() -> None:
    """Whatever order a set has in this process."""
    code = "import json,sys; from mcpg.cli.drawing import svg; print('\\n'.join(svg(json.load(sys.stdin))))"
    asked = json.dumps(as_wire(TABLES["provision"]))
    ran = [
        subprocess.run(
            [sys.executable, "-c", code], input=asked, capture_output=True, text=True, check=True,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONIOENCODING": "utf-8"},
        ).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    assert ran == [drawn(as_wire(TABLES["provision"]))] * 2


def test_on_the_command_line(acme: Ctl, fake: Fake) -> None:
    fake.says("GET", "/v1/machines/cluster", data(bodies.machine()))
    ran = acme("machine", "show", "cluster", "-o", "svg")
    assert (ran.code, ran.err, ran.out) == (0, "", drawn(bodies.machine()))
    check({**bodies.machine(), "final": []})


@pytest.mark.parametrize("missing", ["states", "moves", "title", "final", "failures", "initial", "definition"])
def test_a_machine_of_another_version_may_lack_a_field(missing: str) -> None:
    whole = as_wire(TABLES["recovery"])
    read(drawn({key: value for key, value in whole.items() if key != missing}))


def test_what_it_is_told_is_text_and_no_markup() -> None:
    evil = "<script>&\x00\x1b[31m\ufffe\u202e]]>"
    state = {"name": evil, "rest": {"kind": evil}}
    move = {"source": evil, "event": evil, "dest": evil, "guard": evil}
    said = drawn({"definition": evil, "title": evil, "initial": evil, "states": [state], "moves": [move]})
    root = read(said)
    assert {each.tag.removeprefix(SVG) for each in root.iter()}.isdisjoint({"script"})
    assert not set("\x00\x1b\ufffe\u202e") & set(said)
