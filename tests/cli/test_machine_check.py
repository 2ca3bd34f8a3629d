"""`machine check`: the model checker on the command line, and what it says when something does not hold."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from jsonschema import Draft202012Validator
from syrupy.assertion import SnapshotAssertion

from mcpg.cli import checker
from mcpg.machines import TABLES
from mcpg.wire.shapes import definitions, schema_of

from .fake import Ctl


def fits(found: object) -> None:
    validator = Draft202012Validator({**schema_of("MachineCheck"), "$defs": definitions()})
    assert [error.message for error in validator.iter_errors(found)] == []


def untimed(text: str) -> str:
    """Without times, and without the blanks that their width makes."""
    return re.sub(r" +", " ", re.sub(r"\b\d+(\.\d+)?m?s\b", "TOOK", text))


def test_one_world_for_people_and_as_data(ctl: Ctl, snapshot: SnapshotAssertion) -> None:
    """No control plane is asked: none is there."""
    ran = ctl("machine", "check", "agent")
    assert (ran.code, ran.err) == (0, "")
    assert untimed(ran.out) == snapshot
    found = json.loads(ctl("machine", "check", "agent", "-o", "json").out)
    fits(found)
    assert (found["ok"], [w["name"] for w in found["worlds"]]) == (True, ["agent"])
    assert ctl("machine", "check", "agent", "-o", "name").out == "agent\n"


def test_a_machine_is_checked_with_every_world_it_takes_part_in(ctl: Ctl) -> None:
    found = json.loads(ctl("machine", "check", "recovery", "-o", "json").out)
    assert found["ok"] is True
    assert [w["name"] for w in found["worlds"]] == ["brake", "overtaken", "recovery-lease"]
    assert [each.partition("@")[0] for each in found["definitions"]] == ["recovery"]


def test_a_name_that_is_nothing_is_refused_with_those_there_are(ctl: Ctl) -> None:
    ran = ctl("machine", "check", "nope")
    assert ran.code == 3
    assert "provision, teardown" in ran.err
    assert "lease" in ran.err


@pytest.fixture
def mended_wrongly() -> dict[str, object]:
    """What is found when an agent that was quarantined could not be removed."""
    table = TABLES["enrolment"]
    moves = [m for m in table.moves if (m.source.value, m.event.value) != ("quarantined", "removed")]
    return checker.examine({**TABLES, "enrolment": replace(table, moves=moves)}, "agent")


def test_what_does_not_hold_is_shown_as_a_timeline(
    mended_wrongly: dict[str, object], snapshot: SnapshotAssertion
) -> None:
    fits(json.loads(json.dumps(mended_wrongly)))
    assert mended_wrongly["ok"] is False
    assert untimed("\n".join(checker._page(mended_wrongly, None))) == snapshot
