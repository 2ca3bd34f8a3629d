"""
`mcpg-ctl context list|show|use|add|rm`: the stored contexts of mcpg/cli/contexts.py.

No request is sent, and nothing but the standard library is loaded.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mcpg.cli import contexts, inputs, render, resolve
from mcpg.cli.contexts import Context, Contexts
from mcpg.cli.parse import Line
from mcpg.cli.resolve import Values
from mcpg.errors import NameTaken, NotFound, Usage

_HEAD = ("", "NAME", "URL", "WHERE", "PROTECTED")
_WIDE = (*_HEAD, "OUTPUT", "SESSION FILE")


def list_(line: Line) -> int:
    """Prints every context; `*` marks the one in use here and now, which MCPG_CONTEXT may decide."""
    values = resolve.values(line)
    found = contexts.read(values.state_dir)
    rows = [_described(found, found.named(name)) for name in sorted(found.stored)]
    none_yet = ["no contexts yet", "store one: mcpg-ctl context add NAME --cp-url URL --use"]

    def table(*, wide: bool = False) -> list[str]:
        cells = [_row(row) for row in rows]
        head = _WIDE if wide else _HEAD
        lines = [head, *(row[: len(head)] for row in cells)]
        return render.columns(lines, width=None if wide else render.terminal_width()) if rows else none_yet

    render.emit(
        values.output, rows, table=table, wide=lambda: table(wide=True), names=[str(row["name"]) for row in rows]
    )
    return 0


def show(line: Line) -> int:
    """Prints one context, the one in use when none is named. Exit 3 when none is in use."""
    values = resolve.values(line)
    found = contexts.read(values.state_dir)
    name, source = (values.name, "") if values.name else (os.environ.get("MCPG_CONTEXT") or None, "MCPG_CONTEXT")
    context = found.in_force(name, source)
    if context is None:
        known = f"stored: {', '.join(found.stored)}" if found.stored else "none is stored"
        raise NotFound("no context is in use", cause=known, hint="mcpg-ctl context use NAME")
    data = _described(found, context)
    render.emit(values.output, data, table=lambda: render.pairs(data), names=[context.name])
    return 0


def use(line: Line) -> int:
    """Makes one context the current one; `none` leaves none."""
    values = resolve.values(line)
    with contexts.changing(values.state_dir) as found:
        context = found.in_force(values.name) or contexts.NOTHING
        found.current = "" if context is contexts.NOTHING else context.name
    data = _described(found, context)
    says = f"context {context.name} is in use: {_where(data)}" if found.current else "no context is in use"
    render.emit(values.output, data, table=lambda: [render.clean(says)], names=[context.name])
    return 0


def add(line: Line) -> int:
    """Stores one context. Only what is typed is stored: no environment, no other context."""
    values = resolve.values(line)
    name = contexts.check_name(values.name)
    made: dict[str, str | bool] = {field: value for field, value in _typed(values).items() if value}
    if values.protected:
        made["protected"] = True
    with contexts.changing(values.state_dir) as found:
        if name in found.stored and not values.replace:
            raise NameTaken(
                f"context {name} is stored already",
                cause=str(found.path),
                hint=f"mcpg-ctl context add {name} … --replace",
            )
        found.stored[name] = made
        if values.use:
            found.current = name
        data = _described(found, found.named(name))
    then = "it is in use" if found.current == name else f"use it: mcpg-ctl context use {name}"
    render.emit(
        values.output, data, table=lambda: [render.clean(f"context {name}: {_where(data)}; {then}")], names=[name]
    )
    return 0


def _typed(values: Values) -> dict[str, str]:
    """What `context add` was given, each checked as a command would check it later."""
    for field in ("org", "workspace", "env"):
        if getattr(values, field):
            inputs.check_slug(f"--{field}", getattr(values, field))
    session = values.session_cookie_file
    if session == "-":
        raise Usage("--session-cookie-file - cannot be stored", cause="stdin is another one each time")
    return {
        "cp_url": _url(values.cp_url) if values.cp_url else "",
        "org": values.org,
        "workspace": values.workspace,
        "env": values.env,
        "output": values.stored_output,
        "session_cookie_file": str(Path(session).absolute()) if session else "",
    }


def _url(text: str) -> str:
    from urllib.parse import urlsplit

    if "@" in text:  # not repeated: what stands before it may be a password
        raise Usage("--cp-url holds a user name", cause="a context stores no secret", hint="--session-cookie-file PATH")
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.query or parts.fragment:
        raise Usage(f"--cp-url {text} is not an http or https URL", hint="--cp-url http://127.0.0.1:7843")
    return text


def rm(line: Line) -> int:
    """Forgets one context, or all of them with the file, whatever state that is in."""
    values = resolve.values(line)
    if bool(values.name) == values.all:
        raise Usage("context rm needs the name of one, or --all", hint="mcpg-ctl context rm NAME")
    if values.all:
        path = contexts.path_of(values.state_dir)
        inputs.confirm(line, values, "forget every context", name="all", where=str(path))
        contexts.forget_all(values.state_dir)
        removed = "all"
    else:
        with contexts.changing(values.state_dir) as found:
            if values.name not in found.stored:
                found.named(values.name)
            del found.stored[values.name]
            was_current = found.current == values.name
            found.current = "" if was_current else found.current
        removed = values.name
        if was_current:
            inputs.say(values, "no context is in use now: mcpg-ctl context use NAME")
    data = {"removed": removed}
    render.emit(values.output, data, table=lambda: [render.clean(f"forgotten: {removed}")], names=[removed])
    return 0


def _described(found: Contexts, context: Context) -> dict[str, Any]:
    """One context as data, "" where it sets nothing; `in_use` is what a command here and now would take."""
    fields = {field: context.values.get(field, "") for field in contexts.FIELDS}
    current = found.current or contexts.NONE
    in_use = context.name == (os.environ.get("MCPG_CONTEXT") or current)
    is_current = context.name == current
    return {"name": context.name, "in_use": in_use, "current": is_current, **fields, "protected": context.protected}


def _row(data: dict[str, Any]) -> tuple[str, ...]:
    place = "/".join(data[field] or "–" for field in ("org", "workspace", "env"))
    protected = "yes" if data["protected"] else ""
    mark = "*" if data["in_use"] else ""
    return mark, data["name"], data["cp_url"], place, protected, data["output"], data["session_cookie_file"]


def _where(data: dict[str, Any]) -> str:
    place = "/".join(data[field] or "–" for field in ("org", "workspace", "env"))
    return f"{data['cp_url'] or 'the default URL'}  {place}{'  protected' if data['protected'] else ''}"
