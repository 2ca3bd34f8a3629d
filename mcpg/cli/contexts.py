"""
Stored contexts: which control plane, which place in it, and how its answers look. One file, `<state-dir>/contexts.json`.

Read by resolve.py and settings.Client (flag > environment > context > default), changed by `mcpg-ctl context …` and by
quickstart. It holds no secret: `session_cookie_file` is a path. It says where credentials are sent, though, so a file
that others may write is refused.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mcpg.cli import files
from mcpg.cli.parse import close
from mcpg.errors import McpgError, StateDirUnusable, Usage

FIELDS = ("cp_url", "org", "workspace", "env", "output", "session_cookie_file")
_SIZE_MAX = 1024 * 1024
NONE = "none"
"""`--context none`: without any, whatever the current one is."""


class Context(NamedTuple):
    """One context. `values` holds what it sets, by field; in a protected one, what destroys asks for a typed name."""

    name: str
    values: dict[str, str]
    protected: bool

    def layer(self, cp_url: str | None) -> dict[str, str]:
        """
        What it gives a command whose flags or environment say *cp_url*, None when they do not.

        The session belongs to the context's own control plane: with another URL it is left out, never sent there.
        """
        if cp_url is None or cp_url == self.values.get("cp_url"):
            return self.values
        return {field: value for field, value in self.values.items() if field != "session_cookie_file"}


LOCAL = "local"
_MAKER = "quickstart"
NOTHING = Context(NONE, {}, protected=False)


class Contexts:
    """The file's content: `current` is a name or "", `stored` is what it says of each, which `named` checks."""

    def __init__(self, path: Path, current: str, stored: dict[str, Any]) -> None:
        self.path = path
        self.current = current
        self.stored = stored

    def named(self, name: str, source: str = "") -> Context:
        """The context *name*. Raises Usage when there is none, StateDirUnusable when the file says nonsense about it."""
        if name not in self.stored:
            raise self._unknown(name, source)
        found, remove = self.stored[name], f"mcpg-ctl context rm {shlex.quote(name)}"
        if not isinstance(found, dict):
            raise _corrupt(self.path, f"context {name} is not an object", remove)
        for field in FIELDS:
            value = found.get(field, "")
            if not isinstance(value, str) or any(0xD800 <= ord(char) <= 0xDFFF for char in value):
                raise _corrupt(self.path, f"{field} of context {name} is not text", remove)
        if not isinstance(found.get("protected", False), bool):
            raise _corrupt(self.path, f"protected of context {name} is neither true nor false", remove)
        values = {field: found[field] for field in FIELDS if found.get(field)}
        return Context(name, values, found.get("protected", False))

    def in_force(self, name: str | None, source: str = "") -> Context | None:
        """The context that *name* asks for, None asking for the current one. Raises as `named`."""
        if name == NONE or (name is None and not self.current):
            return None
        return self.named(self.current if name is None else name, source)

    def _unknown(self, name: str, source: str) -> Usage:
        known = list(self.stored)
        meant = close(name, known)
        what = f'there is no context "{name}"'
        if name and name == self.current:
            what = f'the current context "{name}" is no longer stored'
            return Usage(
                what, cause=str(self.path), hint=f"mcpg-ctl context use {shlex.quote(known[0]) if known else NONE}"
            )
        new = shlex.quote(name) if name else "NAME"
        ways = f"did you mean: {shlex.quote(meant)}" if meant else f"mcpg-ctl context add {new} --cp-url URL"
        cause = f"stored: {', '.join(known)}" if known else "none is stored"
        return Usage(what, cause=f"{source} names it; {cause}" if source else cause, hint=ways)


def path_of(state_dir: Path) -> Path:
    return state_dir / "contexts.json"


def read(state_dir: Path) -> Contexts:
    """What is stored, nothing when there is no file. Raises StateDirUnusable: unreadable, corrupt, or others may write."""
    path = path_of(state_dir)
    try:
        raw, mode = files.read(path, _SIZE_MAX)
    except (FileNotFoundError, NotADirectoryError):
        return Contexts(path, "", {})
    except OSError as exc:
        raise StateDirUnusable(
            f"{path} cannot be read", cause=exc.strerror or str(exc), hint="another place: --state-dir PATH"
        ) from None
    if mode & 0o022:
        raise StateDirUnusable(
            f"{path} can be written by others",
            cause="it says where your session is sent",
            hint=f"chmod 600 {shlex.quote(str(path))}",
        )
    return _parsed(path, raw)


def _parsed(path: Path, raw: bytes) -> Contexts:
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError) as exc:
        raise _corrupt(path, f"it is not JSON: {exc}") from None
    stored = found.get("contexts", {}) if isinstance(found, dict) else None
    current = found.get("current", "") if isinstance(found, dict) else None
    if not isinstance(stored, dict) or not isinstance(current, str):
        raise _corrupt(path, "it is not an object with `current` and `contexts`")
    return Contexts(path, current, stored)


def _corrupt(
    path: Path, why: str, hint: str = "mcpg-ctl context rm --all      then add them again"
) -> StateDirUnusable:
    return StateDirUnusable(f"{path} cannot be used", cause=why, hint=hint)


@contextlib.contextmanager
def changing(state_dir: Path) -> Iterator[Contexts]:
    """The contexts, to be changed in place; stored when the block ends, with no other process in between."""
    with _alone(state_dir):
        found = read(state_dir)
        yield found
        data = {"current": found.current, "contexts": found.stored}
        write_private(found.path, json.dumps(data, indent=2) + "\n")


def remember_local(state_dir: Path, url: str) -> None:
    """
    Stores the context `local` for the control plane that quickstart runs at *url*, and makes it current, when nothing is
    stored yet; gives it the new URL when quickstart made it. What a person stored stays as it is.
    """
    if path_of(state_dir).exists():
        found = read(state_dir).stored.get(LOCAL)
        if not isinstance(found, dict) or found.get("made_by") != _MAKER or found.get("cp_url") == url:
            return
    with changing(state_dir) as contexts:
        if not contexts.stored:
            contexts.current = LOCAL
        place = dict.fromkeys(("org", "workspace", "env"), "default")
        contexts.stored[LOCAL] = contexts.stored.get(LOCAL, {**place, "made_by": _MAKER}) | {"cp_url": url}


def forget_all(state_dir: Path) -> None:
    """Removes the file, whatever is in it."""
    path = path_of(state_dir)
    try:
        path.unlink(missing_ok=True)
    except OSError as exc:
        raise McpgError(f"{path} cannot be removed", cause=exc.strerror or str(exc)) from None


@contextlib.contextmanager
def _alone(state_dir: Path) -> Iterator[None]:
    """Holds the directory itself against other changes; makes it, 0700, when there is none."""
    import fcntl

    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        held = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as exc:
        cause = exc.strerror or str(exc)
        raise StateDirUnusable(f"{state_dir} cannot be used", cause=cause, hint="--state-dir PATH") from None
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)


def write_private(path: Path, text: str) -> None:
    """Writes a 0600 file by an atomic rename: a crash leaves the old one or the new one."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with open(fd, "w", encoding="utf-8") as file:
            os.fchmod(fd, 0o600)
            file.write(text)
            file.flush()
            os.fsync(fd)
        aside.replace(path)
    except OSError as exc:
        aside.unlink(missing_ok=True)
        cause = exc.strerror or str(exc)
        raise StateDirUnusable(f"{path} cannot be written", cause=cause, hint="--state-dir PATH") from None


def check_name(name: str) -> str:
    """*name*, when it can be one: what a shell and a terminal take as it is. Raises Usage."""
    is_plain = name.isascii() and name.replace("-", "").replace("_", "").replace(".", "").isalnum()
    if not is_plain or name[0] in "-." or len(name) > 64 or name == NONE:
        why = "it means: without a context" if name == NONE else "a-z, 0-9, -, _ and ., at most 64 characters"
        raise Usage(f'"{name}" cannot name a context', cause=why, hint="mcpg-ctl context add NAME --cp-url URL")
    return name
