"""
From what was typed to values: flag > environment > context > default. An empty environment variable counts as not set.

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

    from mcpg.cli.contexts import Context
    from mcpg.cli.table import Command, Option
    from mcpg.settings import Agent, Server

    Tree = TypeVar("Tree", Server, Agent)


class Values:
    """The resolved options of one command, as attributes by field name. `stored` is the context in force, if any."""

    def __init__(self, found: dict[str, Any], sources: dict[str, str], stored: Context | None = None) -> None:
        self._found = found
        self._sources = sources
        self.stored = stored

    def __getattr__(self, name: str) -> Any:
        try:
            return self._found[name]
        except KeyError:
            raise AttributeError(name) from None

    def source(self, field: str) -> str:
        """Where a value came from: `--cp-url`, `MCPG_CP_URL`, `context prod` or `default`."""
        return self._sources[field]

    def rank(self, field: str) -> int:
        """How near to the person it was said: 0 a flag, 1 the environment, 2 a context, 3 nowhere."""
        source = self._sources[field]
        if source == "default" or source.startswith("context "):
            return 3 if source == "default" else 2
        return 0 if source.startswith("--") else 1


def values(line: Line, environ: Mapping[str, str] | None = None) -> Values:
    """
    Every option of the line's command. Raises Usage for a wrong value, a missing required one, or a context that is
    not stored, StateDirUnusable when the contexts cannot be read.
    """
    command = command_of(line)
    environ = os.environ if environ is None else environ
    stored = context_of(line, environ)
    found: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for option in command.options:
        found[option.field], sources[option.field] = one(option, line, environ, stored)
    missing = [option for option in command.options if option.field in command.required and not found[option.field]]
    if missing:
        raise _missing(line, command, missing, stored)
    return Values(found, sources, stored)


def one(option: Option, line: Line, environ: Mapping[str, str], stored: Context | None) -> tuple[Any, str]:
    """The value of one option and where it came from. Raises Usage for one that cannot be."""
    raw, source = given(option, line, environ, stored)
    return (_default(option) if source == "default" else _coerced(option, raw, source)), source


def client_line(line: Line) -> Line:
    """What was typed, as the line of a command that takes every client option and requires none."""
    from mcpg.cli.contexts import NONE
    from mcpg.cli.options import CLIENT, PLACE
    from mcpg.cli.table import Command

    asking = Line(line.prog)
    asking.command = Command("", "", "", options=(*PLACE, *CLIENT))
    fields = {option.field for option in asking.command.options}
    asking.flags = {field: value for field, value in line.flags.items() if field in fields}
    if line.command and all(option.field != "context" for option in line.command.options):
        asking.flags["context"] = NONE  # it takes nothing from a context
    return asking


def context_of(line: Line, environ: Mapping[str, str]) -> Context | None:
    """The context in force for a command that takes one."""
    options = {option.field: option for option in command_of(line).options}
    if "context" not in options:
        return None
    from mcpg.cli import contexts

    state_dir, _ = one(options["state_dir"], line, environ, None)
    name, source = given(options["context"], line, environ, None)
    if source != "default" and name == contexts.NONE:
        return None  # without looking: it is the way round a file that cannot be read
    return contexts.read(state_dir).in_force(None if source == "default" else str(name), source)


def command_of(line: Line) -> Command:
    if line.command is None:
        raise AssertionError(line.words)
    return line.command


def given(option: Option, line: Line, environ: Mapping[str, str], stored: Context | None) -> tuple[str | bool, str]:
    """What was said, as it was said, and where."""
    if option.field in line.flags:
        return line.flags[option.field], option.name
    name = next((name for name in option.env if environ.get(name)), "")
    if name:
        return environ[name], name
    if stored is not None:
        if option.field == "context":
            return stored.name, f"context {stored.name}"
        cp_url = line.flags.get("cp_url", environ.get("MCPG_CP_URL") or None)
        layer = stored.layer(None if cp_url is None else str(cp_url))
        if option.field in layer:
            return layer[option.field], f"context {stored.name}"
    return "", "default"


def _default(option: Option) -> Any:
    if option.field == "state_dir":
        return _state_dir(str(option.default))
    return option.default


def _state_dir(default: str) -> Path:
    from pathlib import Path

    try:
        return Path(default).expanduser()
    except RuntimeError:  # no home directory
        here = Path("mcpg-state")
    try:
        return here.absolute()
    except OSError as exc:
        raise _no_directory(f"--state-dir {here}", exc) from None


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
    except (RuntimeError, OSError) as exc:
        raise _no_directory(f"{source} {raw}", exc) from None


def _no_directory(what: str, exc: Exception) -> Usage:
    """`~nobody/` has no home, and a relative path is nowhere once the working directory is gone."""
    gone = isinstance(exc, OSError)
    cause = f"the working directory is gone: {exc.strerror}" if isinstance(exc, OSError) else str(exc)
    doing = "made absolute" if gone else "expanded"
    return Usage(f"{what} cannot be {doing}", cause=cause, hint="--state-dir /an/absolute/path")


def _is_text(raw: str) -> bool:
    """False for what was not UTF-8 on the command line: Python keeps such bytes as lone surrogates."""
    return not any(0xD800 <= ord(each) <= 0xDFFF for each in raw)


_DIGITS = 64  # no number of ours has more


def _number(option: Option, raw: str, source: str) -> int | float:
    digits = raw.removeprefix("-")
    whole = digits.isascii() and digits.isdigit()
    if option.kind == "int" and not whole:
        raise wrong(option, raw, source, "it is not a whole number")
    if len(raw) > _DIGITS or not raw.isascii() or "_" in raw:  # Python would take them, or too long to say so
        raise wrong(option, raw[:_DIGITS], source, "it is not a number")
    try:
        number = int(raw) if whole else float(raw)
    except ValueError:
        raise wrong(option, raw, source, "it is not a number") from None
    low, high = option.low, option.high
    if (low is not None and not low <= number) or (high is not None and not number <= high):
        raise wrong(option, raw, source, f"it is not {_range(low, high)}")
    return number


def _range(low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f"in {low:.16g} to {high:.16g}"
    return f"{low:.16g} or more" if low is not None else f"{high:.16g} or less"


def wrong(option: Option, raw: str, source: str, why: str) -> Usage:
    """The error for a value that cannot be: where it came from, why not, and what would do."""
    shown = f"{source} {raw}" if source.startswith("--") else f"{source}={raw}"
    if source.startswith("context "):
        shown = f"{option.field} {raw} of {source}"
    if option.secret or ("@" in raw and "url" in option.field):
        shown = source  # what it holds may be a secret
    meant = close(raw, list(option.choices)) if option.choices else ""
    hint = f"did you mean: {option.name} {meant}" if meant else option.shown()
    return Usage(f"{shown} cannot be used", cause=why, hint=hint, option=option.name)


def _missing(line: Line, command: Command, missing: list[Option], stored: Context | None) -> Usage:
    way_on = ""
    names = [option.name for option in missing]
    needs = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    ways = "; ".join(" or ".join((option.name, *option.env[:1])) for option in missing)
    if any(option.field in ("org", "workspace", "env") for option in missing):
        ways += f"; context {stored.name} has none" if stored else "; no context is in use"
        way_on = "      or keep it in a context: mcpg-ctl context list"
    flags = [
        option.metavar if option.field in command.positional else f"{option.name} {option.metavar}"
        for option in missing
    ]
    if len(command.positional) > 1:  # each is told by its place: what was given stays there
        from mcpg.cli.inputs import quoted

        places = [(command.option(field), line.flags.get(field)) for field in command.positional]
        flags = [quoted(given) if given else option.metavar for option, given in places]
        way_on += f"      as in: {command.examples[0]}"
    name = " ".join(command.words)
    return Usage(
        f"{name} needs {needs}",
        cause=f"not set: {ways}",
        hint=f"{line.prog} {name} {' '.join(flags)} …{way_on}",
        missing=names,
    )


def tree(kind: type[Tree], line: Line) -> Tree:
    """A settings tree for the commands that start something. Raises Usage, naming flag and environment."""
    from pydantic import ValidationError

    fields = set(kind.model_fields)
    for option in command_of(line).options:
        raw, source = given(option, line, os.environ, None)
        if option.field in fields and isinstance(raw, str) and not _is_text(raw):
            raise wrong(option, raw, source, "it is not UTF-8")
    flags = {field: value for field, value in line.flags.items() if field in fields}
    try:
        resolved = kind.resolve(flags)
    except ValidationError as exc:
        raise _refused(exc, line) from None
    except (RuntimeError, OSError) as exc:
        raise _no_directory("--state-dir", exc) from None
    if not isinstance(resolved, kind):
        raise TypeError(kind)
    return resolved


def _refused(exc: ValidationError, line: Line) -> Usage:
    """The first thing pydantic refused, in our words."""
    error = exc.errors(include_url=False)[0]
    place = str(error["loc"][0])
    options = command_of(line).options
    option = next(option for option in options if place in (option.field, *option.env))
    raw, source = given(option, line, os.environ, None)
    why = f"it is not one of {', '.join(option.choices)}" if option.choices else str(error["msg"])
    return wrong(option, str(raw), source, why[:1].lower() + why[1:])
