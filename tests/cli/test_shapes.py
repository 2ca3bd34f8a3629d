"""What `-o json` prints is what docs/cli-schema.json says; tests/every holds the commands that need a server to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from mcpg.cli.commands import COMMANDS
from mcpg.cli.table import Command
from mcpg.wire import shapes

from .fake import Ctl

SCHEMA = json.loads((Path(__file__).parents[2] / "docs/cli-schema.json").read_text())
LINES = [
    "version",
    "status",
    "gateway-status",
    "auth status",
    "config explain",
    "context add prod --org acme --use",
    "context list",
    "context show prod",
    "context use none",
    "context rm prod",
]


def validator(part: dict[str, Any]) -> Draft202012Validator:
    return Draft202012Validator({**part, "$defs": SCHEMA["$defs"]})


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command.words))
def test_a_command_that_prints_data_says_its_shape(command: Command) -> None:
    """`operation export` prints its document whatever -o says, so it has a shape and no -o."""
    shows = any(option.field == "output" for option in command.options)
    assert set(shapes.types_of(command.shape)) <= set(shapes.SHAPES)
    assert bool(command.shape) >= shows


def test_what_the_commands_print_has_their_shape(ctl: Ctl) -> None:
    for line in LINES:
        ran = ctl(*line.split(), "-o", "json")
        name = next(" ".join(each.words) for each in COMMANDS if line.split()[: len(each.words)] == list(each.words))
        assert (ran.code, ran.err) == (0, "")
        validator(SCHEMA["commands"][name]).validate(ran.json)


@pytest.mark.parametrize("line", ["context show nobody", "provision history", "no such", "provision create --size big"])
def test_what_goes_wrong_has_the_shape_of_an_error(ctl: Ctl, line: str) -> None:
    ran = ctl(*line.split(), "-o", "json")
    assert ran.out == ""
    validator(SCHEMA["error"]).validate(json.loads(ran.err))


def test_the_schema_refuses_what_was_not_promised() -> None:
    version = validator(SCHEMA["commands"]["version"])
    good = {"name": "mcpg-ctl", "version": "1", "python": "3"}
    wrong = [{**good, "more": 1}, {**good, "python": 3}, {"name": "mcpg-ctl"}, [good]]
    assert [version.is_valid(each) for each in (good, *wrong)] == [True, False, False, False, False]
    operations = validator(SCHEMA["commands"]["provision history"])
    assert (operations.is_valid([]), operations.is_valid([{}]), operations.is_valid({})) == (True, False, False)


def test_a_time_is_utc_with_milliseconds() -> None:
    time = validator(SCHEMA["$defs"]["Transition"]["properties"]["at"])
    texts = ["2026-11-22T10:21:07.114Z", "2026-11-22T10:21:07Z", "2026-11-22T10:21:07.114+00:00", "3m ago"]
    assert [time.is_valid(text) for text in texts] == [True, False, False, False]


def test_a_shape_may_be_one_of_two() -> None:
    found = shapes.schema_of("Result | Context[]")
    assert found == {"anyOf": [{"$ref": "#/$defs/Result"}, {"type": "array", "items": {"$ref": "#/$defs/Context"}}]}
    with pytest.raises(KeyError):
        shapes.schema_of("Nonsense")
