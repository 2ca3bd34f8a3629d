from __future__ import annotations

import base64
import json
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mcpg import errors
from mcpg.agent import lkg
from mcpg.agent.pb import agent_pb2 as pb

BUNDLE = pb.ConfigBundle(schema_version=1, config_toml=b"mcp: {}")


@pytest.fixture
def machine_id(tmp_path: Path) -> Path:
    path = tmp_path / "machine-id"
    path.write_text("3d1219c7c4c5404aaa1f6d2a48adfda4\n")
    return path


def test_what_was_written_is_read_back(tmp_path: Path, machine_id: Path) -> None:
    lkg.write(tmp_path, "h1", BUNDLE, machine_id=machine_id)
    good = lkg.read(tmp_path, machine_id=machine_id)
    assert good is not None
    assert (good.config_hash, good.bundle) == ("h1", BUNDLE)
    assert good.written_at.endswith("Z")
    assert stat.S_IMODE((tmp_path / lkg.FILE).stat().st_mode) == 0o600
    assert b"mcp" not in (tmp_path / lkg.FILE).read_bytes()


def test_the_format_is_the_contract_s(tmp_path: Path, machine_id: Path) -> None:
    """Opened here from the words of contract/agent.md §8, not with the code under test."""
    lkg.write(tmp_path, "h1", BUNDLE, machine_id=machine_id)
    raw = (tmp_path / lkg.FILE).read_bytes()
    secret = b"3d1219c7c4c5404aaa1f6d2a48adfda4"
    key = HKDF(hashes.SHA256(), 32, b"mcpg-lkg-cache-v1", b"aes-256-gcm:lkg-bundle").derive(secret)
    assert raw[0] == 1
    document = json.loads(AESGCM(key).decrypt(raw[1:13], raw[13:], None))
    assert set(document) == {"config_hash", "bundle_proto", "written_at"}
    assert pb.ConfigBundle.FromString(base64.b64decode(document["bundle_proto"])) == BUNDLE


def test_without_a_machine_id_a_node_secret_is_made_once(tmp_path: Path) -> None:
    none = tmp_path / "no-machine-id"
    lkg.write(tmp_path, "h1", BUNDLE, machine_id=none)
    secret = (tmp_path / lkg.NODE_SECRET).read_bytes()
    assert len(secret) == 32
    assert stat.S_IMODE((tmp_path / lkg.NODE_SECRET).stat().st_mode) == 0o600
    lkg.write(tmp_path, "h2", BUNDLE, machine_id=none)
    assert (tmp_path / lkg.NODE_SECRET).read_bytes() == secret
    good = lkg.read(tmp_path, machine_id=none)
    assert good is not None
    assert good.config_hash == "h2"


def test_nothing_written_is_none(tmp_path: Path, machine_id: Path) -> None:
    assert lkg.read(tmp_path, machine_id=machine_id) is None


def test_another_machine_cannot_open_it(tmp_path: Path, machine_id: Path) -> None:
    lkg.write(tmp_path, "h1", BUNDLE, machine_id=machine_id)
    machine_id.write_text("another")
    with pytest.raises(errors.StateDirUnusable) as caught:
        lkg.read(tmp_path, machine_id=machine_id)
    assert "another machine" in caught.value.cause
    machine_id.unlink()
    with pytest.raises(errors.StateDirUnusable):
        lkg.read(tmp_path, machine_id=machine_id)


@pytest.mark.parametrize("raw", [b"", b"\x02" + b"x" * 40, b"\x01", b"\x01short", b"\x01" + b"x" * 60])
def test_a_damaged_file_is_a_clear_error(tmp_path: Path, machine_id: Path, raw: bytes) -> None:
    (tmp_path / lkg.FILE).write_bytes(raw)
    with pytest.raises(errors.StateDirUnusable) as caught:
        lkg.read(tmp_path, machine_id=machine_id)
    assert str(tmp_path / lkg.FILE) in caught.value.hint


@pytest.mark.parametrize(
    "document", [b"[]", b"{", b'{"config_hash": "h", "bundle_proto": "!", "written_at": ""}', b"{}"]
)
def test_a_sealed_file_that_holds_no_config_is_a_clear_error(tmp_path: Path, machine_id: Path, document: bytes) -> None:
    key = HKDF(hashes.SHA256(), 32, b"mcpg-lkg-cache-v1", b"aes-256-gcm:lkg-bundle").derive(
        machine_id.read_bytes().strip()
    )
    (tmp_path / lkg.FILE).write_bytes(b"\x01" + b"n" * 12 + AESGCM(key).encrypt(b"n" * 12, document, None))
    with pytest.raises(errors.StateDirUnusable):
        lkg.read(tmp_path, machine_id=machine_id)
