"""What a client command is given besides plain values: the connection, names, a config file, a session, a yes."""

from __future__ import annotations

import errno
import shlex
import stat
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from mcpg.cli import files
from mcpg.cli.parse import Line
from mcpg.cli.render import clean, without_login
from mcpg.cli.resolve import Values, command_of
from mcpg.cli.talk import tell
from mcpg.errors import BadConfig, BadSlug, McpgError, Usage

if TYPE_CHECKING:
    from mcpg.cli.client import Api

_CONFIG_MAX = 3 * 1024 * 1024
_COOKIE_MAX = 64 * 1024
_SLUG = set("abcdefghijklmnopqrstuvwxyz0123456789-")


def connect(values: Values) -> Api:
    """The API that the connection options name, with the session or else with the stored login."""
    from mcpg.cli.client import Api
    from mcpg.cli.renewal import credential
    from mcpg.cli.talk import tell

    def note(text: str) -> None:
        tell(f"note: {clean(text)}", as_logs=values.json_logs, event="version_skew", level="warning")

    cookie, source = session(values)
    login = None if cookie else credential(values.state_dir)
    url_source = values.source("cp_url")
    return Api(values.cp_url, url_source=url_source, cookie=cookie, cookie_source=source, login=login, note=note)


def session(values: Values) -> tuple[str, str]:
    """The session and where it came from: what was said nearest to the person, the file when both were."""
    if values.session_cookie_file and values.rank("session_cookie_file") <= values.rank("session_cookie"):
        return _cookie(values.session_cookie_file, values.source("session_cookie_file")), values.session_cookie_file
    return values.session_cookie, values.source("session_cookie")


def confirm(
    line: Line,
    values: Values,
    question: str,
    *,
    name: str,
    where: str,
    also: str = "",
    about: Iterable[str] = (),
    typed: bool = False,
) -> None:
    """
    Asks on the terminal before something is destroyed: `QUESTION? [y/N]`, which --yes answers; with *typed*, and always
    in a protected context, for *name* letter by letter, which --confirm NAME answers. *also* is as good: its uid.

    *where* is the control plane's URL, *about* are lines to read first; both, and the context, are shown with every
    question. Raises Usage without a terminal and without the flag, McpgError when the answer is no.
    """
    stored = values.stored
    typed = typed or (stored is not None and stored.protected)
    given = getattr(values, "confirm", "") if typed else ""
    if given and given not in (name, also):
        hint = f"--confirm {quoted(name)}"
        raise Usage(f"--confirm {given} is not what would be destroyed", cause=question, hint=hint)
    if given or (not typed and values.yes):
        return
    flag = f"--confirm {quoted(name)}" if typed else "--yes"
    command = " ".join((line.prog, *line.words))
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        cause = (
            f"context {stored.name} is protected"
            if stored and stored.protected
            else "it takes something away, and asks first"
        )
        raise Usage(f"{command} needs {flag}: there is no terminal to ask on", cause=cause, hint=again(line, flag))
    in_context = f"context {stored.name}{', protected' if stored.protected else ''}" if stored else "no context"
    asked = f"{question}? type {name} to go on: " if typed else f"{question}? [y/N] "
    sys.stderr.write("".join(f"{clean(text)}\n" for text in (*about, f"{in_context}, at {where}")))
    sys.stderr.write(f"{clean(asked)} ")
    sys.stderr.flush()
    answer = sys.stdin.readline().strip()
    if answer not in (name, also or name) if typed else answer.lower() not in ("y", "yes"):
        raise McpgError(
            "nothing was changed", cause=f"the answer was not {name if typed else 'y'}", hint=f"{flag} answers it"
        )


def quoted(name: object) -> str:
    """*name* as one word of a command that a person may copy, whatever a file or a server put into it."""
    return shlex.quote(clean(name))


def again(line: Line, *more: str) -> str:
    """The command as it was typed and *more*, to be run again; a secret is left for the person to give."""
    words = [line.prog, *line.words]
    for field, value in line.flags.items():
        option = command_of(line).option(field)
        if isinstance(value, bool):
            words.append(option.name if value else option.negated or f"{option.name}=false")
        elif not option.secret:
            words += [option.name, quoted(without_login(value) if "url" in field else value)]
    return " ".join((*words, *more))


def say(values: Values, text: str, *, event: str = "note") -> None:
    """A note beside the data, on stderr: a line, or a log line with --json-logs. *text* may come from a server."""
    tell(clean(text), as_logs=values.json_logs, event=event)


def check_slug(flag: str, text: str) -> None:
    """Raises BadSlug, exit 2, for what the server would refuse as well."""
    if _is_slug(text):
        return
    near = "".join(char if char in _SLUG else "-" for char in text.lower()).strip("-")[:40]
    raise BadSlug(
        f'{flag} "{text}" is not a name that can be used',
        cause="a-z, 0-9 and -, 2 to 40 characters, no - at either end",
        hint=f"did you mean: {flag} {near}" if _is_slug(near) else f"{flag} SLUG",
    )


def _is_slug(text: str) -> bool:
    return 2 <= len(text) <= 40 and set(text) <= _SLUG and text[0] != "-" and text[-1] != "-"


def config_text(where: str) -> str:
    """The config file's text; `-` is stdin. Raises BadConfig with exit 2 for what can never be one."""
    shown = "stdin" if where == "-" else where
    try:
        if where == "-":
            raw = sys.stdin.buffer.read(_CONFIG_MAX + 1)
        else:
            raw, _ = files.read(Path(where), _CONFIG_MAX, pipes=True)
    except OSError as exc:
        if exc.errno == errno.EFBIG:
            raise BadConfig(f"--config {shown} is too large", cause="more than 3 MiB") from None
        why = {FileNotFoundError: "there is no such file", IsADirectoryError: "it is a directory"}
        cause = why.get(type(exc), exc.strerror or str(exc))
        raise BadConfig(f"--config {shown} cannot be read", cause=cause, hint="--config FILE, or - for stdin") from None
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise BadConfig(f"--config {shown} is not text", cause=f"byte {exc.start} is not UTF-8") from None
    if len(raw) > _CONFIG_MAX:
        raise BadConfig(f"--config {shown} is too large", cause="more than 3 MiB")
    if not text.strip():
        raise BadConfig(f"--config {shown} is empty", cause="leave --config out to keep the gateway's default")
    return text


def _cookie(where: str, source: str) -> str:
    """The session from a file; `-` is stdin. A file that others may read is refused, and so is a pipe with nothing in it."""
    hint = f"it is named by {source}"
    if where == "-":
        return sys.stdin.readline(_COOKIE_MAX).strip()
    try:
        raw, mode = files.read(Path(where), _COOKIE_MAX, pipes=True)
        found = raw.decode("utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        cause = getattr(exc, "strerror", None) or "not UTF-8"
        raise Usage(f"the session file {where} cannot be read", cause=cause, hint=hint) from None
    if stat.S_ISREG(mode) and mode & 0o077:
        raise Usage(f"{where} can be read by others", cause="it holds a secret", hint=f"chmod 600 {shlex.quote(where)}")
    if stat.S_ISFIFO(mode) and not found:
        raise Usage(f"the session file {where} cannot be read", cause="it is a pipe that holds nothing", hint=hint)
    return found
