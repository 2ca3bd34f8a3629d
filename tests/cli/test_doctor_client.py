"""`doctor` on what the user has stored: contexts, the login, the session. Each check made to fail for real, and to pass."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from .doctoring import *  # noqa: F403  fixtures
from .doctoring import Examine, Said, stored
from .fake import Fake


def test_no_context_is_stored(examine: Examine) -> None:
    assert examine("context") == Said("skip", "none is stored", "")


def test_the_context_in_force(examine: Examine, state: Path, answering: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MCPG_CP_URL")
    stored(state, json.dumps({"current": "prod", "contexts": {"dev": {}, "prod": {"cp_url": answering.url}}}))
    assert examine("context") == Said("pass", "prod of 2: dev, prod", "")
    assert examine("control-plane").detail.startswith(f"{answering.url} (context prod) answers in ")


@pytest.mark.parametrize("text", ["{", "[]", '{"contexts": {"dev": 1}}'])
def test_contexts_that_cannot_be_used(examine: Examine, state: Path, text: str) -> None:
    """The other checks go on without any."""
    path = stored(state, text)
    said = examine("context")
    assert (said.status, said.detail.startswith(f"{path} cannot be used: ")) == ("fail", True)


@pytest.mark.parametrize("environ", [{}, {"MCPG_CONTEXT": "gone"}], ids=["current", "asked for"])
def test_a_context_that_is_not_stored(
    examine: Examine, state: Path, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str]
) -> None:
    stored(state, json.dumps({"current": "" if environ else "gone", "contexts": {"dev": {}}}))
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    said = examine("context")
    assert (said.status, '"gone"' in said.detail) == ("fail", True)


def test_contexts_that_others_may_write(examine: Examine, state: Path) -> None:
    path = stored(state, json.dumps({"contexts": {"dev": {}}}))
    path.chmod(0o666)
    said = examine("context")
    assert (said.status, said.fix) == ("fail", f"chmod 600 {path}")


def signed_in(state: Path, *, ends_in: float, **more: object) -> Path:
    """A stored login whose token ends then; the text `canary` in it must never be seen."""
    claims = base64.urlsafe_b64encode(json.dumps({"exp": time.time() + ends_in}).encode()).decode().rstrip("=")
    login = {"issuer": "https://sso.test", "client_id": "mcpg-ctl", "id_token": f"canary.{claims}.canary"}
    login |= {"access_token": "canary", "refresh_token": None, "license_jwt": None, "email": "ada@acme.test"}
    state.mkdir(mode=0o700)
    path = state / "credentials.json"
    path.write_text(json.dumps(login | {"stored_at": "2026-11-22T10:21:07Z"} | more, indent=2))
    path.chmod(0o600)
    return path


def test_nobody_has_signed_in(examine: Examine) -> None:
    assert examine("credentials") == Said("skip", "nobody has signed in with this state directory", "")


def test_a_login_that_is_good(examine: Examine, state: Path) -> None:
    signed_in(state, ends_in=7200.5)
    assert examine("credentials") == Said("pass", "ada@acme.test, for another 2h0m", "")


def test_a_login_that_others_can_read(examine: Examine, state: Path) -> None:
    path = signed_in(state, ends_in=7200)
    path.chmod(0o640)
    said = examine("credentials")
    assert (said.status, said.detail.startswith(f"{path} can be read by others")) == ("fail", True)
    assert said.fix == f"chmod 600 {path}"


def test_a_login_that_is_no_json(examine: Examine, state: Path) -> None:
    path = signed_in(state, ends_in=7200)
    path.write_text("{")
    said = examine("credentials")
    assert (said.status, said.detail.startswith(f"{path} cannot be used")) == ("fail", True)


def test_a_login_that_ended_and_is_not_renewed_by_looking_at_it(examine: Examine, state: Path) -> None:
    path = signed_in(state, ends_in=-7200.5, refresh_token="canary")
    before = path.read_bytes()
    assert examine("credentials") == Said(
        "pass", "the login of ada@acme.test ended 2h0m ago; the next command renews it", ""
    )
    assert (path.read_bytes(), sorted(each.name for each in state.iterdir())) == (before, ["credentials.json"])


def test_a_login_that_ended_for_good(examine: Examine, state: Path) -> None:
    signed_in(state, ends_in=-7200.5)
    words = "the login of ada@acme.test ended 2h0m ago and cannot be renewed: it has no refresh token"
    assert examine("credentials") == Said("fail", words, "mcpg-ctl login --issuer https://sso.test")


def test_a_login_that_the_control_plane_does_not_ask_for(examine: Examine, state: Path, answering: Fake) -> None:
    signed_in(state, ends_in=-7200.5)
    words = "the login of ada@acme.test ended 2h0m ago; the control plane in use asks for none"
    assert examine("credentials") == Said("pass", words, "")


def test_the_stored_login_is_sent_as_it_is(examine: Examine, state: Path, answering: Fake) -> None:
    signed_in(state, ends_in=7200)
    examine("agents")
    asked = [each for each in answering.asked if each.path != "/readyz"]  # which asks for none
    assert {each.headers["authorization"].partition(" ")[0] for each in asked} == {"Bearer"}


def test_no_secret_is_printed(ctl: Callable[..., tuple[int, str, str]], state: Path, answering: Fake) -> None:
    signed_in(state, ends_in=-7200, refresh_token="canary", license_jwt="canary")
    for output in ("table", "wide", "json", "yaml"):
        _, out, err = ctl("doctor", "-o", output, "--session-cookie", "canary-cookie")
        assert "canary" not in out + err


def test_no_session_is_given(examine: Examine) -> None:
    assert examine("session") == Said("skip", "none is given", "")


def test_a_session_in_a_file(examine: Examine, tmp_path: Path) -> None:
    path = tmp_path / "session"
    path.write_text("canary\n")
    path.chmod(0o600)
    assert examine("session", "--session-cookie-file", str(path)) == Said("pass", f"from {path}, 0600", "")
    path.chmod(0o644)
    said = examine("session", "--session-cookie-file", str(path))
    assert said == Said("fail", f"{path} can be read by others: it holds a secret", f"chmod 600 {path}")


@pytest.mark.parametrize(("text", "words"), [(None, "cannot be read"), ("", "is empty")])
def test_a_session_file_without_a_session(examine: Examine, tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "session"
    if text is not None:
        path.write_text(text)
        path.chmod(0o600)
    said = examine("session", "--session-cookie-file", str(path))
    assert (said.status, words in said.detail, said.fix) == ("fail", True, f"ls -l {path}")


def test_a_session_on_the_command_line(examine: Examine, monkeypatch: pytest.MonkeyPatch) -> None:
    words = "it is on the command line, where `ps` shows it"
    assert examine("session", "--session-cookie", "x")[:2] == ("warn", words)
    monkeypatch.setenv("MCPG_SESSION_COOKIE", "x")
    assert examine("session") == Said("pass", "from MCPG_SESSION_COOKIE", "")
