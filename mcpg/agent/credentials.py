"""
What a gateway remembers on disk: who it is, where its control plane is, and that only one process is it.

    <state>/gateway-pairing.json                {cp_grpc}
    <state>/gateway-agent/agent-creds.json      0600, the keys of contract/agent.md §8, readable by the real gateway
    <state>/gateway-agent/enrolment.json        ours: the uid we enrol under, and when we did
    <state>/gateway-agent/lock                  ours: flock of the running process, holds its pid

Called by mcpg/agent/identity.py, gateway.py and, for `mcpg-ctl gateway-status`, status.py. Secrets are in no error text,
no `repr` and no status.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import fcntl
import json
import math
import os
import re
import secrets
import stat
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from mcpg import errors

MAX_FILE_BYTES: Final = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Credentials:
    """What Register answered, or the last rotation; field names are the file's keys."""

    instance_id: str
    instance_jwt: str = field(repr=False)
    cp_endpoint: str
    issued_at: str
    client_cert_pem: str = ""
    client_key_pem: str = field(default="", repr=False)
    ca_chain_pem: str = ""
    payload_dek_b64: str = field(default="", repr=False)
    payload_dek_version: int = 0

    @property
    def expires_at(self) -> float | None:
        """The token's `exp` in Unix seconds; None where it has none or is no JWT."""
        return jwt_expiry(self.instance_jwt)


def is_foreign(issued_at: str | None) -> bool:
    """
    Whether another program wrote the credentials of that time: the real gateway keeps its files in the same place.

    We write milliseconds, it writes nanoseconds. A time that ends in zeros may be either's, and is taken for ours.
    """
    return re.search(r"\.\d{4}", issued_at or "") is not None


def agent_dir(state_dir: Path) -> Path:
    return state_dir / "gateway-agent"


def creds_path(state_dir: Path) -> Path:
    return agent_dir(state_dir) / "agent-creds.json"


def pairing_path(state_dir: Path) -> Path:
    return state_dir / "gateway-pairing.json"


def enrolment_path(state_dir: Path) -> Path:
    return agent_dir(state_dir) / "enrolment.json"


def is_token(text: str) -> bool:
    """Whether *text* can be sent as gRPC metadata; what cannot would break every session."""
    return bool(text) and text.isascii() and text.isprintable()


def jwt_expiry(token: str) -> float | None:
    """`exp` of a three-part JWT, not verified: the control plane decides, this only says when to ask for a new one."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        return None
    expiry = claims.get("exp") if isinstance(claims, dict) else None
    if isinstance(expiry, bool) or not isinstance(expiry, int | float) or not math.isfinite(expiry):
        return None
    return float(expiry)


def now_rfc3339() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@contextlib.contextmanager
def lock(state_dir: Path) -> Iterator[None]:
    """Holds the state directory for this process. Raises errors.StateDirBusy, naming the pid of who has it."""
    directory = agent_dir(state_dir)
    make_private_dir(directory)
    path = directory / "lock"
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise _unusable(path, error) from None
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(fd, 20).decode("ascii", "replace").strip() or "unknown"
            raise errors.StateDirBusy(
                "another gateway is using this state directory",
                cause=f"process {holder} holds {path}",
                hint="stop it, or give this one its own --state-dir",
                pid=holder,
            ) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        # The file stays: removing it would let a second process lock a new one while a third waits on the old.
        os.close(fd)


def lock_holder(state_dir: Path) -> int | None:
    """The pid of the agent that holds the directory now, None where none does. Only looks: it never takes the lock."""
    path = agent_dir(state_dir) / "lock"
    try:
        pid = int(path.read_text(encoding="ascii"))
        inode = path.stat().st_ino
        locks = [line.split() for line in Path("/proc/locks").read_text(encoding="ascii").splitlines()]
    except (OSError, ValueError):
        return None
    # `1: FLOCK ADVISORY WRITE 4711 fd:01:131 0 EOF`: who waits has `->` in the second place
    held = any(row[1] == "FLOCK" and row[4] == str(pid) and row[5].endswith(f":{inode}") for row in locks)
    return pid if held else None


def read(state_dir: Path) -> Credentials | None:
    """The stored credentials, or None. Raises errors.StateDirUnusable: others may read them, or they are corrupt."""
    path = creds_path(state_dir)
    stored = read_json(path, private=True)
    if stored is None:
        return None
    try:
        # Null and absent are the same, and keys of newer versions are left alone.
        known = {item.name: stored[item.name] for item in fields(Credentials) if stored.get(item.name) is not None}
        creds = Credentials(**known)
    except TypeError:
        raise _corrupt(path) from None
    numbers_and_text = (
        isinstance(value, int if name == "payload_dek_version" else str) for name, value in asdict(creds).items()
    )
    if not all(numbers_and_text) or not creds.instance_id or not is_token(creds.instance_jwt):
        raise _corrupt(path)
    return creds


def write(state_dir: Path, creds: Credentials) -> None:
    """Stores them; a crash leaves the old file or the new one. Raises errors.StateDirUnusable."""
    write_atomically(creds_path(state_dir), json.dumps(asdict(creds), indent=2).encode() + b"\n")


def drop(state_dir: Path) -> None:
    """Forgets them: the control plane said they are no good. Raises errors.StateDirUnusable."""
    path = creds_path(state_dir)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise _unusable(path, error) from None


def read_pairing(state_dir: Path) -> str | None:
    """The gRPC URL of the last control plane."""
    stored = read_json(pairing_path(state_dir)) or {}
    endpoint = stored.get("cp_grpc")
    return endpoint if isinstance(endpoint, str) and endpoint else None


def write_pairing(state_dir: Path, cp_grpc: str) -> None:
    if read_pairing(state_dir) != cp_grpc:
        write_atomically(pairing_path(state_dir), json.dumps({"cp_grpc": cp_grpc}).encode() + b"\n", mode=0o644)


def instance_uid(state_dir: Path, *, wanted: str, hostname: str) -> str:
    """
    The uid to enrol under: *wanted*, else the one used before, else `<hostname>-<8 random hex>`, which is kept.

    Kept before Register is called: a one-shot token can be presented again only by who consumed it, also after a crash.
    The hex is random and not, as in the real gateway, the clock, on which gateways started together collide.
    """
    stored = read_json(enrolment_path(state_dir)) or {}
    known = stored.get("instance_uid")
    uid = wanted or (known if isinstance(known, str) and known else f"{hostname}-{secrets.token_hex(4)}")
    if uid != known:
        write_atomically(enrolment_path(state_dir), json.dumps({**stored, "instance_uid": uid}).encode() + b"\n")
    return uid


def record_registration(state_dir: Path, uid: str, at: str) -> None:
    """Remembers that *uid* was registered *at* (RFC 3339); credentials only know when they were last issued."""
    write_atomically(enrolment_path(state_dir), json.dumps({"instance_uid": uid, "registered_at": at}).encode() + b"\n")


def write_atomically(path: Path, data: bytes, *, mode: int = 0o600, durable: bool = True) -> None:
    """
    *data* under *path* with exactly *mode*, on disk before it has its name; not *durable*: whole, but a power cut may
    bring the old one back. Raises errors.StateDirUnusable.
    """
    make_private_dir(path.parent)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
        with os.fdopen(fd, "wb") as file:
            os.fchmod(fd, mode)
            file.write(data)
            file.flush()
            if durable:
                os.fsync(fd)
        temporary.replace(path)
        if not durable:
            return
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise _unusable(path, error) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def read_file(path: Path, *, private: bool) -> bytes | None:
    """The whole file, None where there is none. With *private*, one that others may read is refused."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unusable(path, error) from None
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_FILE_BYTES:
            raise errors.StateDirUnusable(f"{path} is not a file of ours", cause="not a regular file, or far too large")
        if private and found.st_mode & 0o077:
            raise errors.StateDirUnusable(
                f"{path} can be read by other users",
                cause=f"its mode is {stat.S_IMODE(found.st_mode):04o} and it holds this gateway's credentials",
                hint=f"chmod 600 {path}",
            )
        return file.read()


def read_json(path: Path, *, private: bool = False) -> dict[str, Any] | None:
    raw = read_file(path, private=private)
    if raw is None:
        return None
    try:
        stored = json.loads(raw)
    except (ValueError, RecursionError):
        raise _corrupt(path) from None
    if not isinstance(stored, dict):
        raise _corrupt(path)
    return stored


def make_private_dir(directory: Path) -> None:
    """*directory*, 0700 where it is new. Raises errors.StateDirUnusable."""
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise _unusable(directory, error) from None


def rfc3339(seconds: float) -> str | None:
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    except (OverflowError, ValueError, OSError):
        return None


def _corrupt(path: Path) -> errors.StateDirUnusable:
    return errors.StateDirUnusable(
        f"{path} is corrupt",
        cause="it is not the JSON a gateway writes",
        hint=f"move it away (mv {path} {path}.bad) and enrol again with --enrollment-url",
    )


def _unusable(path: Path, error: OSError) -> errors.StateDirUnusable:
    denied = isinstance(error, PermissionError)
    hint = f"run as the user whose it is, or: chmod u+rw {path}; chmod u+rwx {path.parent}" if denied else ""
    return errors.StateDirUnusable(f"cannot use {path}", cause=error.strerror or str(error), hint=hint)
