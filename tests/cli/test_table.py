"""The static table says what mcpg/settings.py says: names, environment, defaults, choices, words."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest
from pydantic import AliasChoices, SkipValidation
from pydantic_settings import BaseSettings

from mcpg.cli.commands import COMMANDS
from mcpg.cli.options import AGENT, CONNECTION, GLOBAL, LOGIN, OUTPUT, PLACE, SERVER
from mcpg.cli.table import Command, Option
from mcpg.settings import Agent, Client, Login, Server

TREES: list[tuple[type[BaseSettings], tuple[Option, ...]]] = [
    (Server, (*SERVER, *GLOBAL)),
    (Agent, (*AGENT, *GLOBAL)),
    (Login, (*LOGIN, *GLOBAL)),
    (Client, (*PLACE, *CONNECTION, OUTPUT, *GLOBAL)),
]
FIELDS = [
    pytest.param(tree, options, field, id=f"{tree.__name__}.{field}")
    for tree, options in TREES
    for field in tree.model_fields
]
BY_NAME = pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command.words))


@pytest.mark.parametrize(("tree", "options", "field"), FIELDS)
def test_an_option_repeats_its_setting(tree: type[BaseSettings], options: tuple[Option, ...], field: str) -> None:
    setting = tree.model_fields[field]
    option = next(option for option in options if option.field == field)
    assert isinstance(setting.validation_alias, AliasChoices)
    choices = get_args(setting.annotation) if get_origin(setting.annotation) is Literal else ()
    kinds = {bool: "flag", int: "int", float: "number", Path: "path", str: "text"}
    kind = "choice" if choices else kinds[setting.annotation]  # type: ignore[index]
    if any(isinstance(each, SkipValidation) for each in setting.metadata):
        kind = "path"  # or `-`
    default = setting.get_default(call_default_factory=True)
    expected = (tuple(setting.validation_alias.choices), setting.description, choices, kind)
    assert (option.env, option.help, option.choices, option.kind) == expected
    shown = Path(str(option.default)).expanduser() if setting.annotation is Path else option.default
    assert (type(shown), shown) == (type(default), default)


@pytest.mark.parametrize(("tree", "options"), TREES, ids=["Server", "Agent", "Login", "Client"])
def test_no_option_is_taken_for_a_setting_that_does_not_exist(
    tree: type[BaseSettings], options: tuple[Option, ...]
) -> None:
    with_environment = {option.field for option in options if option.env}
    assert with_environment == set(tree.model_fields)


def test_a_spelling_takes_a_value_in_every_command_or_in_none() -> None:
    """Options may stand before the command, when nobody knows yet which command it will be."""
    takes: dict[str, set[bool]] = {}
    for command in COMMANDS:
        for option in command.options:
            for spelling in option.spellings:
                takes.setdefault(spelling, set()).add(option.kind != "flag")
    assert {spelling for spelling, both in takes.items() if len(both) > 1} == set()


@BY_NAME
def test_a_command_names_a_function_that_exists(command: Command) -> None:
    module, _, function = command.run.partition(":")
    assert callable(getattr(import_module(module), function))


@BY_NAME
def test_every_command_takes_the_global_options(command: Command) -> None:
    assert set(GLOBAL) <= set(command.options)


@BY_NAME
def test_required_options_are_options(command: Command) -> None:
    assert set(command.required) <= {option.field for option in command.options}


@BY_NAME
def test_an_option_stands_once_in_a_command(command: Command) -> None:
    spellings = [spelling for option in command.options for spelling in option.spellings]
    assert len(spellings) == len(set(spellings))
