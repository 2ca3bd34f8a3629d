"""
From what was typed to values: flag > environment > default. An empty environment variable counts as not set.

`values` serves client commands from the static table alone, since pydantic-settings would cost them 17 times the start
of Python; `tree` serves the commands that start something, with the real settings classes. tests/cli/test_resolve.py
proves that both say the same. Every mistake ends here, as `Usage`, exit 2.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from mcpg.cli.parse import NO, YES, Line, close
from mcpg.errors import Usage

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import ValidationError

    from mcpg.cli.table import Command, Option
    from mcpg.settings import Agent, Server

    Tree = TypeVar("Tree", Server, Agent)


class Values:
    """The resolved options of one command, as attributes by field name."""

    def __init__(self, found: dict[str, Any], sources: dict[str, str]) -> None:
        self._found = found
        self._sources = sources

    def __getattr__(self, name: str) -> Any:
        try:
            return self._found[name]
        except KeyError:
            raise AttributeError(name) from None

    def source(self, field: str) -> str:
        """Where a value came from: `--cp-url`, `MCPG_CP_URL` or `default`."""
        return self._sources[field]


def values(line: Line, environ: Mapping[str, str] | None = None) -> Values:
    """Every option of the line's command. Raises Usage for a wrong value or a missing required one."""
    command = command_of(line)
    environ = os.environ if environ is None else environ
    found: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for option in command.options:
        raw, source = _given(option, line, environ)
        sources[option.field] = source
        found[option.field] = _default(option) if source == "default" else _coerced(option, raw, source)
    missing = [option for option in command.options if option.field in command.required and not found[option.field]]
    if missing:
        raise _missing(line, command, missing)
    return Values(found, sources)


def command_of(line: Line) -> Command:
    if line.command is None:
        raise AssertionError(line.words)
    return line.command


def _given(option: Option, line: Line, environ: Mapping[str, str]) -> tuple[str | bool, str]:
    if option.field in line.flags:
        return line.flags[option.field], option.name
    name = next((name for name in option.env if environ.get(name)), "")
    return (environ[name], name) if name else ("", "default")


def _default(option: Option) -> Any:
    if option.field == "state_dir":
        return _state_dir(str(option.default))
    return option.default


def _state_dir(default: str) -> Path:
    from pathlib import Path

    try:
        return Path(default).expanduser()
    except RuntimeError:  # no home directory
        return Path("mcpg-state").absolute()


def _coerced(option: Option, raw: str | bool, source: str) -> Any:
    if isinstance(raw, bool):
        return raw
    if option.field == "state_dir":
        return _absolute(raw, source)
    if option.kind == "path":
        return raw
    if not _is_text(raw):
        raise wrong(option, raw, source, "it is not UTF-8")
    if option.kind == "flag":
        if raw.lower() not in YES + NO:
            raise wrong(option, raw, source, "it is neither true nor false")
        return raw.lower() in YES
    if option.kind == "choice" and raw not in option.choices:
        raise wrong(option, raw, source, f"it is not one of {', '.join(option.choices)}")
    if option.kind in ("int", "number"):
        return _number(option, raw, source)
    return raw


def _absolute(raw: str, source: str) -> Path:
    from pathlib import Path

    try:
        return Path(raw).expanduser().absolute()
    except RuntimeError as exc:
        raise Usage(f"{source} {raw} cannot be expanded", cause=str(exc), hint=f"{source} /an/absolute/path") from None


def _is_text(raw: str) -> bool:
    """False for what was not UTF-8 on the command line: Python keeps such bytes as lone surrogates."""
    return not any(0xD800 <= ord(each) <= 0xDFFF for each in raw)


def _number(option: Option, raw: str, source: str) -> int | float:
    digits = raw.removeprefix("-")
    whole = digits.isascii() and digits.isdigit()
    if option.kind == "int" and not whole:
        raise wrong(option, raw, source, "it is not a whole number")
    try:
        number = int(raw) if whole else float(raw)
    except ValueError:
        raise wrong(option, raw, source, "it is not a number") from None
    low, high = option.low, option.high
    if (low is not None and not low <= number) or (high is not None and not number <= high):
        raise wrong(option, raw, source, f"it is not in {low:g} to {high:g}")
    return number


def wrong(option: Option, raw: str, source: str, why: str) -> Usage:
    """The error for a value that cannot be: where it came from, why not, and what would do."""
    shown = f"{source} {raw}" if source.startswith("--") else f"{source}={raw}"
    meant = close(raw, list(option.choices)) if option.choices else ""
    hint = f"did you mean: {option.name} {meant}" if meant else option.shown()
    return Usage(f"{shown} cannot be used", cause=why, hint=hint, option=option.name)


def _missing(line: Line, command: Command, missing: list[Option]) -> Usage:
    names = [option.name for option in missing]
    needs = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    ways = [" or ".join((option.name, *option.env[:1])) for option in missing]
    flags = " ".join(f"{option.name} {option.metavar}" for option in missing)
    name = " ".join(command.words)
    return Usage(
        f"{name} needs {needs}",
        cause=f"not set: {'; '.join(ways)}",
        hint=f"{line.prog} {name} {flags} …",
        missing=names,
    )


def tree(kind: type[Tree], line: Line) -> Tree:
    """A settings tree for the commands that start something. Raises Usage, naming flag and environment."""
    from pydantic import ValidationError

    fields = set(kind.model_fields)
    flags = {field: value for field, value in line.flags.items() if field in fields}
    try:
        resolved = kind.resolve(flags)
    except ValidationError as exc:
        raise _refused(exc, line) from None
    except RuntimeError as exc:  # Path.expanduser on an unknown user
        raise Usage("--state-dir cannot be expanded", cause=str(exc), hint="--state-dir /an/absolute/path") from None
    if not isinstance(resolved, kind):
        raise TypeError(kind)
    return resolved


def _refused(exc: ValidationError, line: Line) -> Usage:
    """The first thing pydantic refused, in our words."""
    error = exc.errors(include_url=False)[0]
    place = str(error["loc"][0])
    options = command_of(line).options
    option = next(option for option in options if place in (option.field, *option.env))
    raw, source = _given(option, line, os.environ)
    why = f"it is not one of {', '.join(option.choices)}" if option.choices else str(error["msg"])
    return wrong(option, str(raw), source, why[:1].lower() + why[1:])
