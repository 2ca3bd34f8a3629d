"""What a client command is given besides plain values: the connection, names, a config file, a session file."""

from __future__ import annotations

import sys
from pathlib import Path

from mcpg.cli.client import Api
from mcpg.cli.resolve import Values
from mcpg.errors import BadConfig, BadSlug, Usage

_CONFIG_MAX = 3 * 1024 * 1024
_SLUG = set("abcdefghijklmnopqrstuvwxyz0123456789-")


def connect(values: Values) -> Api:
    """The API that the connection options name."""
    cookie, source = values.session_cookie, values.source("session_cookie")
    if values.session_cookie_file:
        cookie, source = _cookie(values.session_cookie_file), values.session_cookie_file
    return Api(values.cp_url, url_source=values.source("cp_url"), cookie=cookie, cookie_source=source)


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
        raw = sys.stdin.buffer.read(_CONFIG_MAX + 1) if where == "-" else _read(Path(where))
    except OSError as exc:
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


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_CONFIG_MAX + 1)


def _cookie(where: str) -> str:
    """The session from a file; `-` is stdin. A file that others may read is refused."""
    if where == "-":
        return sys.stdin.readline().strip()
    path = Path(where)
    try:
        if path.is_file() and path.stat().st_mode & 0o077:
            raise Usage(f"{where} can be read by others", cause="it holds a secret", hint=f"chmod 600 {where}")
        return path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        cause = getattr(exc, "strerror", None) or "not UTF-8"
        raise Usage(f"--session-cookie-file {where} cannot be read", cause=cause) from None
