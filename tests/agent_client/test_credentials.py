from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from mcpg import errors
from mcpg.agent import credentials

from .fake_cp import jwt

KEYS = [
    "instance_id",
    "instance_jwt",
    "cp_endpoint",
    "issued_at",
    "client_cert_pem",
    "client_key_pem",
    "ca_chain_pem",
    "payload_dek_b64",
    "payload_dek_version",
]


def some(token: str = "") -> credentials.Credentials:
    return credentials.Credentials(
        instance_id="inst-1",
        instance_jwt=token or jwt(3600),
        cp_endpoint="http://cp",
        issued_at="2026-11-22T10:15:17Z",
        client_key_pem="KEY-s3cret",
        payload_dek_b64="DEK-s3cret",
        payload_dek_version=2,
    )


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_round_trip_with_the_contract_s_keys_and_modes(tmp_path: Path) -> None:
    os.umask(0o022)
    credentials.write(tmp_path, some())
    path = tmp_path / "gateway-agent" / "agent-creds.json"
    assert list(json.loads(path.read_text())) == KEYS
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)
    assert credentials.read(tmp_path) is not None
    credentials.write(tmp_path, some("a.b.c"))
    read = credentials.read(tmp_path)
    assert read is not None
    assert (read.instance_jwt, read.payload_dek_version) == ("a.b.c", 2)
    assert sorted(found.name for found in path.parent.iterdir()) == ["agent-creds.json"]


def test_a_file_of_the_real_gateway_is_read(tmp_path: Path) -> None:
    """As 0.1.0-beta.48 wrote it (times with nanoseconds), with a key of a version we do not know."""
    path = credentials.creds_path(tmp_path)
    path.parent.mkdir()
    stored = {
        "instance_id": "i",
        "instance_jwt": "a.b.c",
        "cp_endpoint": "",
        "issued_at": "2026-11-22T13:08:44.244337227Z",
    }
    path.write_text(json.dumps({**stored, "client_cert_pem": None, "payload_dek_version": 0, "new": [1]}))
    path.chmod(0o600)
    read = credentials.read(tmp_path)
    assert read is not None
    assert (read.instance_id, read.client_cert_pem) == ("i", "")


def test_nothing_stored_is_none(tmp_path: Path) -> None:
    assert credentials.read(tmp_path) is None
    assert credentials.read_pairing(tmp_path) is None
    credentials.drop(tmp_path)


@pytest.mark.parametrize("loose", [0o640, 0o604, 0o660])
def test_a_file_that_others_may_read_is_refused_with_the_fix(tmp_path: Path, loose: int) -> None:
    credentials.write(tmp_path, some())
    path = credentials.creds_path(tmp_path)
    path.chmod(loose)
    with pytest.raises(errors.StateDirUnusable) as caught:
        credentials.read(tmp_path)
    assert caught.value.hint == f"chmod 600 {path}"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"{}",
        b'{"instance_id": "i", "instance_jwt": "", "cp_endpoint": "", "issued_at": ""}',
        b'{"instance_id": "i", "instance_jwt": "a\\nb", "cp_endpoint": "", "issued_at": ""}',
        b'{"instance_id": 1, "instance_jwt": "s3cret", "cp_endpoint": "", "issued_at": ""}',
        b'{"instance_id": "i", "instance_jwt": "s3cret", "cp_endpoint": "", "issued_at": "", "ca_chain_pem": 1}',
    ],
)
def test_a_corrupt_file_is_named_and_not_quoted(tmp_path: Path, content: bytes) -> None:
    path = credentials.creds_path(tmp_path)
    path.parent.mkdir()
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(errors.StateDirUnusable) as caught:
        credentials.read(tmp_path)
    assert str(path) in caught.value.what
    assert "s3cret" not in f"{caught.value.what}{caught.value.cause}{caught.value.hint}"


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    credentials.write(tmp_path / "other", some())
    path = credentials.creds_path(tmp_path)
    path.parent.mkdir()
    path.symlink_to(credentials.creds_path(tmp_path / "other"))
    with pytest.raises(errors.StateDirUnusable):
        credentials.read(tmp_path)


def test_a_state_directory_that_is_a_file_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    for use in (
        lambda: credentials.write(tmp_path / "state", some()),
        lambda: credentials.lock(tmp_path / "state").__enter__(),
        lambda: credentials.read(tmp_path / "state"),
        lambda: credentials.drop(tmp_path / "state"),
    ):
        with pytest.raises(errors.StateDirUnusable):
            use()


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    credentials.write(tmp_path, some("old.old.old"))

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(errors.StateDirUnusable, match=r"agent-creds\.json") as caught:
        credentials.write(tmp_path, some("new.new.new"))
    assert caught.value.cause == "No space left on device"
    read = credentials.read(tmp_path)
    assert read is not None
    assert read.instance_jwt == "old.old.old"
    assert [found.name for found in credentials.agent_dir(tmp_path).iterdir()] == ["agent-creds.json"]


@pytest.mark.parametrize("token", ["a.b", "a.!!.c", "a.W10.c", "a.eyJleHAiOiAieCJ9.c", "a.eyJleHAiOiAxfQ", ""])
def test_what_is_no_three_part_jwt_with_a_number_has_no_expiry(token: str) -> None:
    assert credentials.jwt_expiry(token) is None


def test_expiry_is_the_exp() -> None:
    assert credentials.jwt_expiry("a.eyJleHAiOiAxfQ.c") == 1.0


@pytest.mark.parametrize("exp", ["true", "1e999", "NaN", "null"])
def test_an_exp_that_is_no_number_is_no_expiry(exp: str) -> None:
    import base64

    claims = base64.urlsafe_b64encode(f'{{"exp": {exp}}}'.encode()).decode()
    assert credentials.jwt_expiry(f"a.{claims}.c") is None


def test_the_lock_is_free_again_after_it(tmp_path: Path) -> None:
    for _ in range(2):
        with credentials.lock(tmp_path), pytest.raises(errors.StateDirBusy) as caught, credentials.lock(tmp_path):
            pass
        assert caught.value.details["pid"] == str(os.getpid())


def test_the_uid_is_the_wanted_one_or_kept(tmp_path: Path) -> None:
    first = credentials.instance_uid(tmp_path, wanted="", hostname="host")
    assert first.startswith("host-")
    assert len(first) == len("host-") + 8
    assert credentials.instance_uid(tmp_path, wanted="", hostname="renamed") == first
    assert credentials.instance_uid(tmp_path, wanted="edge-1", hostname="host") == "edge-1"
    assert credentials.instance_uid(tmp_path, wanted="", hostname="host") == "edge-1"


@pytest.mark.parametrize(
    ("issued_at", "is_foreign"),
    [
        ("2026-11-22T17:29:26.436286613Z", True),  # the real gateway's
        ("2026-11-22T17:29:26.436286Z", True),
        ("2026-11-22T17:29:26.436Z", False),
        ("2026-11-22T17:29:26Z", False),
        (None, False),
    ],
)
def test_whose_credentials_they_are_is_told_by_the_precision_of_their_time(
    issued_at: str | None, is_foreign: bool
) -> None:
    assert credentials.is_foreign(issued_at) is is_foreign
