"""
The last known good config: what this gateway served when it last had a control plane, sealed to this machine.

File `lkg-config.bin`, as the real gateway writes it (contract/agent.md §8; this code has opened one of beta.48's):
byte 0x01, 12 bytes nonce, then AES-256-GCM of JSON {config_hash, bundle_proto: base64 of ConfigBundle, written_at}. The
key is HKDF-SHA256 of /etc/machine-id (trimmed) or, without one, of 32 random bytes in `.node-secret` beside it.

Where we are better than the real gateway: that one writes before it applies, so a bad push destroys the good config,
and does not serve it at boot. Ours is written by mcpg/agent/gateway.py only *after* a config was applied, and is served
at boot when no local config names tools.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
from pathlib import Path
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from google.protobuf.message import DecodeError

from mcpg import errors
from mcpg.agent.credentials import now_rfc3339, read_file, write_atomically
from mcpg.agent.pb import agent_pb2 as pb

FILE: Final = "lkg-config.bin"
NODE_SECRET: Final = ".node-secret"  # noqa: S105 - a file's name
MACHINE_ID: Final = Path("/etc/machine-id")
_VERSION: Final = b"\x01"
_NONCE_BYTES: Final = 12
_SALT: Final = b"mcpg-lkg-cache-v1"
_INFO: Final = b"aes-256-gcm:lkg-bundle"


class LastKnownGood(NamedTuple):
    config_hash: str
    bundle: pb.ConfigBundle
    written_at: str


def write(directory: Path, config_hash: str, bundle: pb.ConfigBundle, *, machine_id: Path = MACHINE_ID) -> None:
    """Seals *bundle* in *directory*; a crash leaves the old file or the new one. Raises errors.StateDirUnusable."""
    document = {
        "config_hash": config_hash,
        "bundle_proto": base64.b64encode(bundle.SerializeToString()).decode(),
        "written_at": now_rfc3339(),
    }
    secret = _machine_secret(machine_id) or _node_secret(directory) or _new_node_secret(directory)
    nonce = os.urandom(_NONCE_BYTES)
    sealed = AESGCM(_key(secret)).encrypt(nonce, json.dumps(document).encode(), None)
    write_atomically(directory / FILE, _VERSION + nonce + sealed)


def read(directory: Path, *, machine_id: Path = MACHINE_ID) -> LastKnownGood | None:
    """What was sealed, None where nothing was. Raises errors.StateDirUnusable where it cannot be opened."""
    path = directory / FILE
    raw = read_file(path, private=False)
    if raw is None:
        return None
    if raw[:1] != _VERSION:
        raise _unreadable(path, "it is of an unknown version")
    nonce, sealed = raw[1 : 1 + _NONCE_BYTES], raw[1 + _NONCE_BYTES :]
    secret = _machine_secret(machine_id) or _node_secret(directory)
    if secret is None:
        raise _unreadable(path, f"neither {machine_id} nor {NODE_SECRET} is there to open it")
    try:
        document = json.loads(AESGCM(_key(secret)).decrypt(nonce, sealed, None))
        bundle = pb.ConfigBundle.FromString(base64.b64decode(document["bundle_proto"], validate=True))
        return LastKnownGood(str(document["config_hash"]), bundle, str(document["written_at"]))
    except InvalidTag:
        raise _unreadable(path, "it was damaged, or written on another machine") from None
    except (ValueError, KeyError, TypeError, DecodeError):
        raise _unreadable(path, "it does not hold a config") from None


def _key(secret: bytes) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=_SALT, info=_INFO).derive(secret)


def _machine_secret(machine_id: Path) -> bytes | None:
    try:
        return machine_id.read_bytes().strip() or None
    except OSError:
        return None


def _node_secret(directory: Path) -> bytes | None:
    return read_file(directory / NODE_SECRET, private=True)


def _new_node_secret(directory: Path) -> bytes:
    secret = secrets.token_bytes(32)
    write_atomically(directory / NODE_SECRET, secret)
    return secret


def _unreadable(path: Path, cause: str) -> errors.StateDirUnusable:
    return errors.StateDirUnusable(
        f"{path} cannot be opened", cause=cause, hint=f"rm {path}; the control plane sends its config again"
    )
