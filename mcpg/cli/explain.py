"""`mcpg-ctl config explain`: every setting, its value, and where that comes from. Secrets are hidden. Sends nothing."""

from __future__ import annotations

import os
import re
from typing import Any

from mcpg.cli import render, resolve
from mcpg.cli.contexts import Context
from mcpg.cli.options import TREES
from mcpg.cli.parse import Line, close
from mcpg.cli.table import Option
from mcpg.errors import NotFound, Usage

_HEAD = ("SETTING", "VALUE", "SOURCE")
_WIDE = (*_HEAD, "OF", "FLAG", "ENV", "DEFAULT")


def explain(line: Line) -> int:
    """Prints the settings whose name holds what is asked for. A value that cannot be used is shown with its problem."""
    stored = resolve.context_of(line, os.environ)
    settings = _settings(line, stored)
    asked = next(each for each in settings if each["name"] == "output")
    output = asked["default"] if asked["problem"] else asked["value"]
    part = str(line.flags.get("name", ""))
    found = [each for each in settings if part.lower().replace("-", "_") in each["name"]]
    if not found:
        meant = close(part, [each["name"] for each in settings])
        raise NotFound(
            f'no setting holds "{part}"', hint=f"did you mean: {meant}" if meant else "mcpg-ctl config explain"
        )
    width = render.terminal_width()
    render.emit(
        output,
        found,
        table=lambda: render.columns([_HEAD, *map(_row, found)], width=width),
        wide=lambda: render.columns([_WIDE, *map(_wide, found)]),
        names=[each["name"] for each in found],
    )
    return 0


def _settings(line: Line, stored: Context | None) -> list[dict[str, Any]]:
    """Client, server, agent and login settings, in this order; one that several trees share stands once."""
    users: dict[Option, list[str]] = {}
    for tree, options in TREES.items():
        for option in options:
            users.setdefault(option, []).append(tree)
    return [_setting(option, trees, line, stored) for option, trees in users.items()]


def _setting(option: Option, trees: list[str], line: Line, stored: Context | None) -> dict[str, Any]:
    problem = ""
    try:
        value, source = resolve.one(option, line, os.environ, stored)
    except Usage as exc:
        value, source = resolve.given(option, line, os.environ, stored)
        problem = exc.cause
    if not isinstance(value, int | float | None):
        value = masked(str(value))
    return {
        "name": option.field,
        "of": trees,
        "value": None if option.secret else value,
        "source": source,
        "secret": option.secret,
        "flag": option.name,
        "env": list(option.env),
        "default": option.default,
        "problem": problem,
    }


def masked(text: str) -> str:
    """*text* without the passwords of a URL: `scheme://user:***@host/path?password=***`."""
    scheme, found, rest = text.partition("://")
    if found and "password=" in rest:
        rest = re.sub(r"(?<=password=)[^&]*", "***", rest)
    user, at, host = rest.rpartition("@")
    name, has_password, _ = user.partition(":")
    return f"{scheme}{found}{name}:***{at}{host}" if has_password else text


def _row(setting: dict[str, Any]) -> tuple[str, ...]:
    source = setting["source"]
    return setting["name"], _shown(setting), f"{source}: {setting['problem']}" if setting["problem"] else source


def _shown(setting: dict[str, Any]) -> str:
    if setting["secret"]:
        return "–" if setting["source"] == "default" else "set, hidden"
    value = setting["value"]
    return str(value).lower() if isinstance(value, bool) else "–" if value in (None, "") else str(value)


def _wide(setting: dict[str, Any]) -> tuple[str, ...]:
    default = setting["default"]
    shown = str(default).lower() if isinstance(default, bool) else "–" if default in (None, "") else str(default)
    return *_row(setting), ", ".join(setting["of"]), setting["flag"], " ".join(setting["env"]), shown
