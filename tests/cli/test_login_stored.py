"""The stored login: what is sent, when it is renewed, what is refused, and how it ends."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion

from mcpg.cli import credentials
from mcpg.errors import NotSignedIn
from mcpg.wire.local import Login, SignedOut
from tests.bounds import BOUND_S

from . import issuer as issuers
from .fake import Answer, Ctl, Fake, data, refusal
from .issuer import Issuer, licence
from .test_startup import modules

HISTORY = ("provision", "history", "--org", "acme")
OPERATIONS = "/v1/orgs/acme/operations"
DISCOVERY = "/.well-known/openid-configuration"


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with issuers.running() as running:
        yield running


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state/credentials.json"


Store = Callable[..., dict[str, Any]]


@pytest.fixture
def store(file: Path, issuer: Issuer) -> Store:
    """Writes a login as the real client does, by default of ada with ten minutes left."""

    def write(seconds: float = 600, **more: Any) -> dict[str, Any]:
        file.parent.mkdir(exist_ok=True)
        login = {
            "issuer": issuer.url,
            "client_id": "mcpg-ctl",
            "id_token": issuer.id_token(exp=int(time.time() + seconds)),
            "access_token": "at-0",
            "refresh_token": "rt-1",
            "license_jwt": None,
            "email": "ada@acme.test",
            "stored_at": "2026-11-22T10:17:28.266436301Z",
        } | more
        file.write_text(json.dumps(login, indent=2))
        file.chmod(0o600)
        return login

    return write


@pytest.fixture
def history(fake: Fake, ctl: Ctl) -> Ctl:
    """Runs a client command against the fake control plane."""
    fake.says("GET", OPERATIONS, data([]))
    return lambda *argv: ctl(*HISTORY, "--cp-url", fake.url, *argv)


def sent(fake: Fake) -> list[tuple[str | None, ...]]:
    """The credentials of every request."""
    return [
        tuple(each.headers.get(name) for name in ("authorization", "x-mcpg-license", "cookie")) for each in fake.asked
    ]


def now_in(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def test_a_client_command_sends_the_id_token_and_the_licence(fake: Fake, history: Ctl, store: Store) -> None:
    login = store(license_jwt=licence())
    assert history().code == 0
    assert sent(fake) == [(f"Bearer {login['id_token']}", login["license_jwt"], None)]


def test_without_a_login_nothing_is_sent(fake: Fake, history: Ctl) -> None:
    assert history().code == 0
    assert sent(fake) == [(None, None, None)]


def test_a_session_cookie_wins(fake: Fake, history: Ctl, store: Store, issuer: Issuer) -> None:
    """Even over a login that is about to end: it is left as it is."""
    store(1)
    assert history("--session-cookie", "s3ss10n").code == 0
    assert (sent(fake), issuer.asked) == ([(None, None, "mcpg_sid=s3ss10n")], [])


def test_a_service_token_may_stand_in_the_file(fake: Fake, history: Ctl, file: Path) -> None:
    file.parent.mkdir()
    file.write_text('{"id_token": "mcpgst_4711"}')
    file.chmod(0o600)
    assert history().code == 0
    assert sent(fake) == [("Bearer mcpgst_4711", None, None)]


@pytest.mark.parametrize("seconds", [50, -7200])
def test_a_login_that_ends_is_renewed_and_its_successor_kept(
    fake: Fake, history: Ctl, store: Store, issuer: Issuer, file: Path, seconds: float
) -> None:
    """Discovery and one refresh; the rotated tokens are in the file, 0600, and the licence is still there."""
    before = store(seconds, license_jwt=licence())
    assert history().code == 0
    after = now_in(file)
    form = {"grant_type": "refresh_token", "refresh_token": "rt-1", "client_id": "mcpg-ctl"}
    assert issuer.asked == [(DISCOVERY, {}), ("/token", form)]
    assert sent(fake) == [(f"Bearer {after['id_token']}", before["license_jwt"], None)]
    changed = {"id_token": after["id_token"], "stored_at": after["stored_at"]}
    assert list(after.items()) == list((before | changed | {"access_token": "at-1", "refresh_token": "rt-2"}).items())
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert history().code == 0
    assert len(issuer.asked) == 2


def test_a_login_with_a_minute_left_is_not_renewed(history: Ctl, store: Store, issuer: Issuer) -> None:
    store(70)
    assert history().code == 0
    assert issuer.asked == []


def test_commands_at_once_renew_once(fake: Fake, store: Store, issuer: Issuer, file: Path) -> None:
    """A refresh token is good for one use: the others wait, and send what the first one brought."""
    fake.says("GET", OPERATIONS, data([]))
    store(1)
    command = [sys.executable, "-m", "mcpg.cli.main", *HISTORY, "--cp-url", fake.url]
    with (file.parent / "credentials.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # so that all are there before the first one goes
        running = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(4)]
        while sum(_has_open(each.pid, lock.name) for each in running) < len(running):
            assert all(each.poll() is None for each in running)
    ended = [(each.communicate(timeout=BOUND_S)[1], each.returncode) for each in running]
    assert ended == [(b"", 0)] * 4
    assert issuer.paths() == [DISCOVERY, "/token"]
    assert sent(fake) == [(f"Bearer {now_in(file)['id_token']}", None, None)] * 4
    assert now_in(file)["refresh_token"] == "rt-2"


def _has_open(pid: int, path: str) -> bool:
    with contextlib.suppress(OSError):
        return any(os.readlink(fd) == path for fd in Path(f"/proc/{pid}/fd").iterdir())
    return False


UNAUTHENTICATED = refusal(NotSignedIn("you are not signed in", cause="the token has expired", hint="the server's hint"))
NOT_RENEWED: dict[str, Callable[[Issuer], dict[str, Any]]] = {
    "refused": lambda i: {},
    "the issuer is broken": lambda i: {"/token": (503, {})},
    "the issuer redirects": lambda i: {DISCOVERY: (302, {"location": "/elsewhere"})},
    "somebody else's token": lambda i: {"claims": {"sub": "u-2"}},
    "another issuer's token": lambda i: {"claims": {"iss": "https://evil.test"}},
    "a token for somebody else": lambda i: {"claims": {"aud": "other"}},
    "tokens would go over plain http": lambda i: {"discovery": {"token_endpoint": "http://evil.test/token"}},
}


@pytest.mark.parametrize("how", NOT_RENEWED)
def test_what_is_not_renewed_is_sent_as_it_is_and_named_when_it_is_refused(
    fake: Fake, history: Ctl, store: Store, issuer: Issuer, file: Path, snapshot: SnapshotAssertion, how: str
) -> None:
    fake.says("GET", OPERATIONS, UNAUTHENTICATED)
    before = store(-7300)
    issuer.wrong |= NOT_RENEWED[how](issuer)
    if how == "refused":
        issuer.refresh_token = "rt-9"
    ran = history()
    assert (ran.code, ran.out) == (4, "")
    assert ran.err.replace(issuer.url, "http://issuer") == snapshot
    assert (sent(fake), now_in(file)) == ([(f"Bearer {before['id_token']}", None, None)], before)


def test_a_refusal_names_what_was_sent(
    fake: Fake, history: Ctl, store: Store, issuer: Issuer, file: Path, snapshot: SnapshotAssertion
) -> None:
    fake.says("GET", OPERATIONS, UNAUTHENTICATED)
    said = [history().err, history("--session-cookie", "s3ss10n").err]
    store()
    said.append(history().err)
    store(-7300, refresh_token=None)
    said.append(history().err)
    fake.says("GET", OPERATIONS, Answer(b"<html>401</html>", 401, "text/html"))
    said.append(history().err)
    assert "\n".join(said).replace(issuer.url, "http://issuer").replace(fake.url, "http://cp") == snapshot


def test_an_issuer_that_gives_no_new_id_token_still_rotates(
    history: Ctl, store: Store, issuer: Issuer, file: Path
) -> None:
    before = store(1)
    issuer.wrong["tokens"] = {"id_token": None}
    assert history().code == 0
    assert (now_in(file)["id_token"], now_in(file)["refresh_token"]) == (before["id_token"], "rt-2")


@pytest.mark.parametrize("url", ["http://cp.acme.test", "http://192.0.2.1:7843", "http://[2001:db8::1]"])
def test_a_login_is_not_sent_where_it_would_be_overheard(
    ctl: Ctl, store: Store, file: Path, snapshot: SnapshotAssertion, url: str
) -> None:
    store()
    ran = ctl(*HISTORY, "--cp-url", url)
    assert (ran.code, ran.out, ran.err.replace(str(file), "FILE")) == (2, "", snapshot)


SPOILT: dict[str, Callable[[Path], object]] = {
    "a FIFO": lambda file: (file.unlink(), os.mkfifo(file, 0o600)),
    "too large": lambda file: file.write_text(" " * 1_048_577),
    "readable by group": lambda file: file.chmod(0o640),
    "readable by all": lambda file: file.chmod(0o604),
    "a directory": lambda file: (file.unlink(), file.mkdir()),
    "not JSON": lambda file: file.write_text("{"),
    "not text": lambda file: file.write_bytes(b"\xff\xfe"),
    "bottomless": lambda file: file.write_text("[" * 100_000),
    "no object": lambda file: file.write_text("[1]"),
    "empty": lambda file: file.write_text(""),
    "no token": lambda file: file.write_text('{"id_token": ""}'),
    "a number": lambda file: file.write_text('{"id_token": "x", "issuer": 7}'),
    "a line end in the token": lambda file: file.write_text('{"id_token": "x\\r\\nevil: 1"}'),
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_file_that_cannot_be_used(
    fake: Fake, history: Ctl, ctl: Ctl, store: Store, file: Path, snapshot: SnapshotAssertion, how: str
) -> None:
    """Nothing is sent; the error says the way on, and logout is always one."""
    store()
    SPOILT[how](file)
    ran = history()
    assert (ran.out, f"{ran.code}\n{ran.err}".replace(str(file), "FILE")) == ("", snapshot)
    assert fake.asked == []
    if how != "a directory":
        assert ctl("logout").code == 0
        assert not file.exists()


def test_chmod_is_enough(history: Ctl, store: Store, file: Path) -> None:
    """The hint's command, as it is printed, in a directory with a space."""
    store()
    file.chmod(0o644)
    hint = next(line for line in history().err.splitlines() if line.startswith("hint:"))
    command = hint.removeprefix("hint:").strip().partition("      ")[0]
    subprocess.run(["sh", "-c", command], check=True)
    assert history().code == 0


def test_a_run_that_was_killed_while_writing_is_no_obstacle(
    history: Ctl, store: Store, file: Path, tmp_path: Path
) -> None:
    """Nor a link in its place: what it points to is left alone."""
    store(1)
    precious = tmp_path / "precious"
    precious.write_text("mine")
    file.with_name("credentials.json.tmp").symlink_to(precious)
    assert history().code == 0
    assert (now_in(file)["refresh_token"], precious.read_text()) == ("rt-2", "mine")
    assert sorted(each.name for each in file.parent.iterdir()) == ["credentials.json", "credentials.lock"]


def test_logout_removes_the_file_and_revokes_the_refresh_token(
    ctl: Ctl, store: Store, issuer: Issuer, file: Path
) -> None:
    store()
    ran = ctl("logout", "-o", "json")
    assert (ran.code, ran.err) == (0, "")
    assert SignedOut.model_validate(ran.json).removed
    assert ran.json == {"path": str(file), "removed": True, "revoked": True}
    form = {"token": "rt-1", "token_type_hint": "refresh_token", "client_id": "mcpg-ctl"}
    assert issuer.asked == [(DISCOVERY, {}), ("/revocation", form)]
    assert not file.exists()
    assert ctl("logout") == (0, "nobody was signed in\n", "")


REVOCATION: dict[str, tuple[dict[str, Any], str]] = {
    "offered by nobody": ({"discovery": {"revocation_endpoint": None}}, ""),
    "refused": ({"/revocation": (503, {})}, "ISSUER did not revoke the refresh token: it answered 503"),
    "silent": ({DISCOVERY: "silent"}, "no answer from ISSUER/.well-known/openid-configuration: timed out"),
}


@pytest.mark.parametrize("how", REVOCATION)
def test_signing_out_needs_nobodys_consent(ctl: Ctl, store: Store, issuer: Issuer, file: Path, how: str) -> None:
    store()
    wrong, words = REVOCATION[how]
    issuer.wrong |= wrong
    ran = ctl("logout")
    note = f"the refresh token was not revoked: {words}\n" if words else ""
    assert (ran.code, ran.out, ran.err.replace(issuer.url, "ISSUER")) == (0, "signed out\n", note)
    assert not file.exists()


def test_logout_makes_no_state_directory(ctl: Ctl, file: Path) -> None:
    assert ctl("logout").out == "nobody was signed in\n"
    assert not file.parent.exists()


def test_auth_status(ctl: Ctl, store: Store, issuer: Issuer, file: Path, snapshot: SnapshotAssertion) -> None:
    """Nobody, somebody, somebody of two hours ago, and a service token: read off the file, asking nobody."""
    said = [ctl("auth", "status").out]
    store(license_jwt=licence())
    said.append(ctl("auth", "status").out)
    store(-7300, refresh_token=None)
    said.append(ctl("auth", "status").out)
    store(id_token="mcpgst_4711", email=None, refresh_token=None, issuer=None)
    said.append(ctl("auth", "status").out)
    text = (
        re.sub(r"(9m\d+|10m0)s", "9m…", "\n".join(said)).replace(issuer.url, "http://issuer").replace(str(file), "FILE")
    )
    assert text == snapshot
    assert issuer.asked == []


def test_auth_status_as_json(ctl: Ctl, store: Store, issuer: Issuer, file: Path) -> None:
    nobody = ctl("auth", "status", "-o", "json").json
    ends = int(time.time()) + 600
    store(license_jwt=licence(exp=ends), id_token=issuer.id_token(exp=ends))
    at = credentials.rfc3339(ends)
    assert nobody == {
        "signed_in": False,
        "path": str(file),
        **dict.fromkeys(("identity", "issuer", "client_id", "stored_at", "expires_at"), None),
        "expired": False,
        "renewable": False,
        "license": None,
    }
    shown = ctl("auth", "status", "-o", "json").json
    assert [Login.model_validate(each).signed_in for each in (nobody, shown)] == [False, True]
    assert shown == {
        "signed_in": True,
        "path": str(file),
        "identity": "ada@acme.test",
        "issuer": issuer.url,
        "client_id": "mcpg-ctl",
        "stored_at": "2026-11-22T10:17:28.266436301Z",
        "expires_at": at,
        "expired": False,
        "renewable": True,
        "license": {"plan": "pro", "tenant": "acme", "expires_at": at},
    }
    assert ctl("auth", "status", "-o", "name").out == "ada@acme.test\n"


def test_no_output_holds_a_secret(
    ctl: Ctl, fake: Fake, history: Ctl, store: Store, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong, and with tracebacks: no token and no licence is printed."""
    monkeypatch.setenv("MCPG_DEBUG", "1")
    login = store(-10, access_token="canary-at", refresh_token="canary-rt", license_jwt=licence())
    said = [
        history("-o", "json"),
        ctl("auth", "status", "-o", "yaml"),
        ctl(*HISTORY, "--cp-url", "http://cp.acme.test"),
    ]
    fake.says("GET", OPERATIONS, UNAUTHENTICATED)
    said += [history(), history("-o", "json"), ctl("auth", "status")]
    issuer.wrong["/revocation"] = (400, {})
    said.append(ctl("logout"))
    hidden = [login[name] for name in ("id_token", "access_token", "refresh_token", "license_jwt")]
    assert [each for each in hidden for ran in said if each in ran.out + ran.err] == []


def test_a_fresh_login_costs_no_third_party_import(fake: Fake, store: Store, file: Path) -> None:
    fake.says("GET", OPERATIONS, data([]))
    store()
    environ = {"MCPG_STATE_DIR": str(file.parent), "MCPG_CP_URL": fake.url}
    code, loaded = modules(" ".join(HISTORY), **environ)
    roots = {name.partition(".")[0] for name in loaded}
    assert (code, roots & {"joserfc", "cryptography", "pydantic"}, "mcpg.cli.oidc" in loaded) == (0, set(), False)


def test_auth_status_loads_no_http_client(store: Store, file: Path) -> None:
    store()
    code, loaded = modules("auth status", MCPG_STATE_DIR=str(file.parent))
    assert (code, loaded & {"httpx", "ssl", "asyncio", "joserfc"}) == (0, set())


def test_an_issuer_that_is_gone_does_not_stop_a_command(fake: Fake, history: Ctl, store: Store) -> None:
    login = store(30, issuer="http://127.0.0.1:1")
    assert history().code == 0
    assert sent(fake) == [(f"Bearer {login['id_token']}", None, None)]
