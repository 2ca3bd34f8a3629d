"""
The stored login: `<state-dir>/credentials.json`, the same file that the real `mcpg-cloud` reads and writes.

login.py writes it, renewal.py keeps it fresh and says what to send of it. Nothing but the standard library, since every
client command pays for this import.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mcpg.cli import files
from mcpg.errors import McpgError, NotSignedIn

NAME = "credentials.json"
_LOCK_S = 15.0  # longer than a renewal may take, so who waited reads what it brought
_SIZE_MAX = 1024 * 1024


class Stored(NamedTuple):
    """What the file holds, in its order. Only `id_token` is always there: a service token may stand in its place."""

    issuer: str
    client_id: str
    id_token: str
    access_token: str
    refresh_token: str | None
    license_jwt: str | None
    email: str | None
    stored_at: str

    @property
    def expires_at(self) -> float | None:
        """When the id_token ends, in seconds since the epoch; None when it does not say."""
        return number(claims(self.id_token).get("exp"))

    @property
    def is_renewable(self) -> bool:
        return bool(self.refresh_token and self.issuer and self.client_id)

    @property
    def identity(self) -> str:
        """Who it is, for people."""
        return self.email or identity(claims(self.id_token)) or "somebody"


class Credential(NamedTuple):
    """What to send to a control plane, what to call it in an error, and the way on when it is not accepted."""

    path: Path
    headers: dict[str, str]
    words: str
    hint: str


def sign_in(issuer: str) -> str:
    """The command that signs in again."""
    return f"mcpg-ctl login --issuer {shlex.quote(issuer) if issuer else 'URL'}"


def path(state_dir: Path) -> Path:
    return state_dir / NAME


def load(state_dir: Path) -> Stored | None:
    """The stored login; None when there is none. Raises NotSignedIn for a file that others can read, or that is none."""
    where = path(state_dir)
    try:
        raw, mode = files.read(where, _SIZE_MAX)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        raise _unusable(where, exc.strerror or str(exc)) from None
    if mode & 0o077:
        raise NotSignedIn(
            f"{where} can be read by others",
            cause="it holds the tokens of a login, and who has read them can act in its name",
            hint=f"chmod 600 {shlex.quote(str(where))}      if others use this machine, sign in again as well",
        )
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        raise _unusable(where, "it is not JSON") from None
    return _checked(found, where)


def _checked(found: Any, where: Path) -> Stored:
    if not isinstance(found, dict) or not found.get("id_token"):
        raise _unusable(where, "it holds no id_token")
    if strange := [name for name in Stored._fields if not isinstance(found.get(name) or "", str)]:
        raise _unusable(where, f"{strange[0]} is not text")
    for name in ("id_token", "license_jwt"):  # they become headers
        value = found.get(name) or ""
        if not value.isascii() or not value.isprintable() or " " in value:
            raise _unusable(where, f"{name} holds characters that a header cannot carry")

    def text(name: str) -> str:
        return str(found.get(name) or "")

    return Stored(
        issuer=text("issuer"),
        client_id=text("client_id"),
        id_token=text("id_token"),
        access_token=text("access_token"),
        refresh_token=text("refresh_token") or None,
        license_jwt=text("license_jwt") or None,
        email=text("email") or None,
        stored_at=text("stored_at"),
    )


def _unusable(where: Path, why: str) -> NotSignedIn:
    return NotSignedIn(f"{where} cannot be used", cause=why, hint=f"mcpg-ctl logout      then: {sign_in('')}")


def save(state_dir: Path, stored: Stored) -> None:
    """Writes the file whole or not at all, readable by its owner alone whatever the umask says. Call it `locked`."""
    where = path(state_dir)
    new = where.with_name(f"{NAME}.tmp")
    new.unlink(missing_ok=True)  # of a run that was killed
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(json.dumps(stored._asdict(), indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    new.rename(where)


def delete(state_dir: Path) -> bool:
    """Removes the file, whatever it holds; whether there was one."""
    path(state_dir).with_name(f"{NAME}.tmp").unlink(missing_ok=True)
    try:
        path(state_dir).unlink()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


@contextlib.contextmanager
def locked(state_dir: Path) -> Iterator[None]:
    """
    One command at a time writes the file. Raises OSError where nothing can be written, so that a refresh token is not
    spent where its successor could not be kept.
    """
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not os.access(state_dir, os.W_OK | os.X_OK):
        raise PermissionError(13, os.strerror(13), str(state_dir))
    lock = os.open(state_dir / "credentials.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _take(lock, state_dir)
        yield
    finally:
        os.close(lock)


def _take(lock: int, state_dir: Path) -> None:
    end = time.monotonic() + _LOCK_S
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                why = f"another command has held {state_dir / 'credentials.lock'} for {_LOCK_S:.0f} s"
                raise McpgError("the stored login is in use", cause=why, hint="try again") from None
        time.sleep(0.02)


def claims(token: str) -> dict[str, Any]:
    """What a JWT says, unverified; {} when it is none."""
    try:
        payload = token.split(".")[1]
        found = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (IndexError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def identity(found: dict[str, Any]) -> str:
    """Who the claims are about: the e-mail, else the user name, else the subject; "" for nobody."""
    names = (found.get(name) for name in ("email", "preferred_username", "sub"))
    return next((name for name in names if name and isinstance(name, str)), "")


def number(value: Any) -> float | None:
    """*value* when it can be a time of a token: finite, and within what a calendar can show."""
    return float(value) if isinstance(value, int | float) and 0 <= value < 253_402_300_800 else None


def rfc3339(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def now() -> str:
    """The time as the file has it: nanoseconds, as the real client writes them."""
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    return f"{rfc3339(seconds)[:-1]}.{nanoseconds:09d}Z"
