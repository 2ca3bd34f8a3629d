"""`login` with an issuer that is right, and with one that is wrong in every way: then nothing is stored."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import re
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from syrupy.assertion import SnapshotAssertion

from tests.ports import free_port

from . import issuer as issuers
from .fake import Ctl, Ran
from .issuer import ED, RSA, STRANGER, Issuer, Login, browse, licence
from .test_terminal import Terminal

StartLogin = Callable[..., Login]


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with issuers.running() as running:
        yield running


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    return tmp_path / "state/credentials.json"


@pytest.fixture
def start(issuer: Issuer) -> Iterator[StartLogin]:
    """Starts `login` at the issuer; what still runs is ended with the test."""
    started: list[Login] = []

    def begin(*argv: str) -> Login:
        started.append(Login(issuer.url, *argv))
        return started[-1]

    yield begin
    for login in started:
        login.close()


def query(url: str) -> list[tuple[str, str]]:
    return list(httpx.URL(url).params.multi_items())


def error(ran: Ran, issuer: Issuer) -> str:
    """The error as it was printed, with what differs from run to run taken out."""
    lines = ran.err[ran.err.index("error:") :]
    return re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:PORT", lines.replace(issuer.url, "http://issuer"))


def test_the_tokens_are_stored_as_the_real_client_stores_them(start: StartLogin, issuer: Issuer, stored: Path) -> None:
    """The eight keys in their order, 0600 whatever the umask is, and nothing left beside it."""
    issuer.wrong["tokens"] = {"mcpg_license_jwt": licence()}
    before = os.umask(0)
    try:
        login = start()
        browse(login.url())
        ran = login.end()
    finally:
        os.umask(before)
    assert ran.code == 0, ran.err
    text = stored.read_text()
    found = json.loads(text)
    assert text == json.dumps(found, indent=2) + "\n"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", found.pop("stored_at"))
    assert list(found.items()) == [
        ("issuer", issuer.url),
        ("client_id", "mcpg-ctl"),
        ("id_token", found["id_token"]),
        ("access_token", "at-1"),
        ("refresh_token", "rt-1"),
        ("license_jwt", issuer.wrong["tokens"]["mcpg_license_jwt"]),
        ("email", "ada@acme.test"),
    ]
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (stored.parent, *stored.parent.iterdir())}
    assert modes == {"state": 0o700, "credentials.json": 0o600, "credentials.lock": 0o600}


def test_what_login_prints(start: StartLogin, issuer: Issuer, stored: Path, snapshot: SnapshotAssertion) -> None:
    """Where it stores comes before the sign-in; who it is comes after; a token comes nowhere."""
    issuer.wrong["tokens"] = {"mcpg_license_jwt": licence()}
    login = start("--no-browser")
    url = login.url()
    assert not stored.exists()
    page = browse(url)
    ran = login.end()
    assert ran.code == 0
    said = re.sub(r"ends in \S+", "ends in …", ran.out + ran.err).replace(url, "URL").replace(issuer.url, "ISSUER")
    assert said.replace(str(stored), "FILE") == snapshot
    assert (page.status_code, page.headers["content-type"], page.text) == (200, "text/html; charset=utf-8", snapshot)
    secret = [*json.loads(stored.read_text()).values(), issuer.asked[2][1]["code"], issuer.asked[2][1]["code_verifier"]]
    hidden = [each for each in secret if each not in (issuer.url, "mcpg-ctl", "ada@acme.test")]
    assert [each for each in hidden if each in ran.out + ran.err + page.text] == []


def test_the_requests_are_those_of_the_real_client(start: StartLogin, issuer: Issuer) -> None:
    """Discovery, authorize, token, keys; the query in its order; a verifier of 43 characters, and its S256."""
    login = start("--client-id", "mcpg-ctl")
    url = login.url()
    browse(url)
    assert login.end().code == 0
    (_, (_, authorize), (_, token), _) = issuer.asked
    assert issuer.paths() == ["/.well-known/openid-configuration", "/authorization", "/token", "/jwks"]
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/callback", authorize["redirect_uri"])
    assert query(url) == [
        ("response_type", "code"),
        ("client_id", "mcpg-ctl"),
        ("redirect_uri", authorize["redirect_uri"]),
        ("scope", "openid email profile"),
        ("state", authorize["state"]),
        ("code_challenge", authorize["code_challenge"]),
        ("code_challenge_method", "S256"),
    ]
    assert (len(authorize["state"]), len(authorize["code_challenge"]), len(token["code_verifier"])) == (32, 43, 43)
    digest = hashlib.sha256(token["code_verifier"].encode()).digest()
    assert base64.urlsafe_b64encode(digest).decode() == authorize["code_challenge"] + "="
    assert token == {
        "grant_type": "authorization_code",
        "code": "code-1",
        "redirect_uri": authorize["redirect_uri"],
        "client_id": "mcpg-ctl",
        "code_verifier": token["code_verifier"],
    }


@pytest.mark.parametrize("signature", ["RS256", "EdDSA", "Ed25519"])
def test_a_signature_that_is_taken(start: StartLogin, issuer: Issuer, signature: str) -> None:
    issuer.wrong["key"] = (RSA if signature == "RS256" else ED, signature)
    login = start()
    browse(login.url())
    ran = login.end()
    assert (ran.code, ran.out.splitlines()[0]) == (0, "signed in as ada@acme.test")


def test_an_invalid_licence_is_a_warning(start: StartLogin, issuer: Issuer, stored: Path) -> None:
    """It is kept: whether it is good is for the control plane to say."""
    issuer.wrong["tokens"] = {"mcpg_license_jwt": licence(aud="somebody")}
    login = start()
    browse(login.url())
    ran = login.end()
    assert ran.code == 0
    assert ran.err.splitlines()[-1] == 'warning: the licence is not valid: its aud is "somebody", not "mcpg-cp"'
    assert json.loads(stored.read_text())["license_jwt"] == issuer.wrong["tokens"]["mcpg_license_jwt"]


def test_without_refresh_token_licence_and_email_the_file_says_null(
    start: StartLogin, issuer: Issuer, stored: Path
) -> None:
    issuer.wrong |= {"tokens": {"refresh_token": None}, "claims": {"email": None, "preferred_username": "ada"}}
    login = start()
    browse(login.url())
    ran = login.end()
    found = json.loads(stored.read_text())
    assert ran.out.splitlines()[0] == "signed in as ada"
    assert (found["refresh_token"], found["license_jwt"], found["email"]) == (None, None, None)


def _unsigned(issuer: Issuer) -> str:
    body = issuer.id_token().split(".")[1]
    header = base64.urlsafe_b64encode(b'{"alg":"none"}').rstrip(b"=").decode()
    return f"{header}.{body}."


def _with_the_public_key_as_secret(issuer: Issuer) -> str:
    """The classic confusion: HS256 keyed with what everybody can read."""
    header = base64.urlsafe_b64encode(b'{"alg":"HS256","kid":"rsa"}').rstrip(b"=").decode()
    text = f"{header}.{issuer.id_token().split('.')[1]}"
    mac = hmac.digest(RSA.as_pem(private=False), text.encode(), "sha256")
    return f"{text}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


WRONG: dict[str, Callable[[Issuer], dict[str, Any]]] = {
    "wrong state": lambda i: {"redirect": {"state": "x" * 32}},
    "no state": lambda i: {"redirect": {"state": ""}},
    "refused by its user": lambda i: {
        "redirect": {"code": "", "error": "access_denied", "error_description": "not \x1b[31mtoday</p>"}
    },
    "no code": lambda i: {"redirect": {"code": ""}},
    "redirect of another issuer": lambda i: {"redirect": {"iss": "https://evil.test"}},
    "wrong aud": lambda i: {"claims": {"aud": ["other", "another"]}},
    "wrong iss": lambda i: {"claims": {"iss": "https://evil.test"}},
    "iss with a slash": lambda i: {"claims": {"iss": f"{i.url}/"}},
    "expired": lambda i: {"claims": {"exp": 1_000_000_000}},
    "of the future": lambda i: {"claims": {"iat": 4_000_000_000, "exp": 4_000_000_600}},
    "without end": lambda i: {"claims": {"exp": None}},
    "end that is no number": lambda i: {"claims": {"exp": float("nan")}},
    "alg none": lambda i: {"id_token": _unsigned(i)},
    "HS256 with the public key": lambda i: {"id_token": _with_the_public_key_as_secret(i)},
    "a stranger's key": lambda i: {"key": (STRANGER, "RS256")},
    "no token": lambda i: {"tokens": {"id_token": None}},
    "an opaque token": lambda i: {"id_token": "opaque"},
    "refused code": lambda i: {"/token": (400, {})},
    "token is not JSON": lambda i: {"/token": b"<html>"},
    "token redirects": lambda i: {"/token": (307, {"location": f"{i.url}/stolen"})},
    "keys are none": lambda i: {"/jwks": b'{"keys": 1}'},
}


@pytest.mark.parametrize("how", WRONG)
def test_a_wrong_answer_stores_nothing(
    start: StartLogin, issuer: Issuer, stored: Path, snapshot: SnapshotAssertion, how: str
) -> None:
    issuer.wrong |= WRONG[how](issuer)
    login = start()
    page = browse(login.url())
    ran = login.end()
    assert (ran.code, ran.out, error(ran, issuer)) == (1, "", snapshot)
    assert not stored.exists()
    assert "/stolen" not in issuer.paths()
    assert "</p></p>" not in page.text


DISCOVERY: dict[str, tuple[int, Any]] = {
    "not JSON": (1, b"<html>hello</html>"),
    "not there": (1, (404, {})),
    "redirects": (1, (302, {"location": "/elsewhere"})),
    "silent": (6, "silent"),
    "never ends": (6, "drip"),
    "too large": (6, b" " * 2_000_000),
}


@pytest.mark.parametrize("how", DISCOVERY)
def test_a_wrong_discovery_document(ctl: Ctl, issuer: Issuer, snapshot: SnapshotAssertion, how: str) -> None:
    code, issuer.wrong["/.well-known/openid-configuration"] = DISCOVERY[how]
    slow = how in ("silent", "never ends")
    ran = ctl("login", "--issuer", issuer.url, *(["--timeout", "2"] if slow else []))
    assert (ran.code, ran.out, error(ran, issuer)) == (code, "", snapshot)
    assert issuer.paths() == ["/.well-known/openid-configuration"]


@pytest.mark.parametrize(
    "said",
    [
        {"issuer": "https://evil.test"},
        {"token_endpoint": "http://evil.test/token"},
        {"token_endpoint": "http://[evil"},
        {"authorization_endpoint": "javascript:alert(1)"},
        {"revocation_endpoint": "http://evil.test/revoke"},
        {"jwks_uri": None},
    ],
    ids=str,
)
def test_a_discovery_document_that_leads_elsewhere(
    ctl: Ctl, issuer: Issuer, snapshot: SnapshotAssertion, said: dict[str, Any]
) -> None:
    issuer.wrong["discovery"] = said
    ran = ctl("login", "--issuer", issuer.url)
    assert (ran.code, ran.out, error(ran, issuer)) == (1, "", snapshot)


@pytest.mark.parametrize(
    "url",
    [
        "http://auth.acme.test",
        "auth.acme.test",
        "ftp://auth.acme.test",
        "https://",
        "https://ada:pw@auth.acme.test",
        "https://a.test?x=1",
        "https://[",
    ],
)
def test_an_issuer_that_cannot_be_one(ctl: Ctl, snapshot: SnapshotAssertion, url: str) -> None:
    ran = ctl("login", "--issuer", url)
    assert (ran.code, ran.out, ran.err) == (2, "", snapshot)


def test_nobody_at_the_issuers_address(ctl: Ctl) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    ran = ctl("login", "--issuer", url)
    assert (ran.code, ran.err.splitlines()[1:3]) == (
        6,
        [f"error: no answer from {url}/.well-known/openid-configuration", "cause: connection refused"],
    )


def test_the_issuer_may_come_from_the_environment(ctl: Ctl, issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = ctl("login")
    issuer.wrong["/.well-known/openid-configuration"] = (404, {})
    monkeypatch.setenv("MCPG_FED_ISSUER", issuer.url)
    assert (missing.code, ctl("login").code) == (2, 1)
    assert missing.err.splitlines()[0] == "error: login needs --issuer"


def test_nobody_comes_back_in_time(ctl: Ctl, issuer: Issuer, stored: Path) -> None:
    ran = ctl("login", "--issuer", issuer.url, "--timeout", "2")
    assert (ran.code, ran.out) == (124, "")
    assert ran.err.splitlines()[3:5] == [
        "error: nobody has signed in within 2 s",
        "cause: the browser has not come back",
    ]
    assert not stored.exists()


def test_ctrl_c_while_waiting(start: StartLogin, stored: Path) -> None:
    login = start()
    login.url()
    login.interrupt()
    ran = login.end()
    assert (ran.code, ran.out, len(ran.err.splitlines())) == (130, "", 3)
    assert not stored.exists()


def test_only_the_callback_ends_the_wait(start: StartLogin) -> None:
    """A favicon, another method, a connection in reserve that says nothing, and nonsense: all beside the point."""
    login = start()
    url = login.url()
    callback = httpx.URL(dict(query(url))["redirect_uri"])
    assert callback.port is not None
    with socket.create_connection(("127.0.0.1", callback.port)), httpx.Client(trust_env=False) as browser:
        assert browser.get(callback.copy_with(path="/favicon.ico")).status_code == 404
        assert browser.post(callback).status_code == 405
        with socket.create_connection(("127.0.0.1", callback.port)) as nonsense:
            nonsense.sendall(b"\xff\xfe\r\n\r\n")
            assert nonsense.recv(1) == b""
        browse(url)
    assert login.end().code == 0


def test_a_state_directory_that_cannot_be_written_is_found_before_anybody_signs_in(
    ctl: Ctl, issuer: Issuer, tmp_path: Path
) -> None:
    (tmp_path / "state").write_text("a file")
    ran = ctl("login", "--issuer", issuer.url)
    assert (ran.code, ran.err.splitlines()[0]) == (1, f"error: no login can be stored in {tmp_path / 'state'}")
    assert issuer.asked == []


def test_the_browser_of_this_machine_is_opened(
    issuer: Issuer, start: StartLogin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the URL is printed all the same: a browser may fail without a word."""
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\nexec curl -sL -o {tmp_path}/page "$1"\n')
    browser.chmod(0o755)
    monkeypatch.setenv("BROWSER", f"{browser} %s")
    login = start()
    url = login.url()
    ran = login.end()
    assert (ran.code, ran.err.splitlines()[1:3]) == (0, ["the browser opens; if it does not, sign in at", url])


def test_the_address_can_be_pasted_where_the_browser_is_elsewhere(issuer: Issuer, stored: Path) -> None:
    """A browser on another machine ends at an address that it cannot reach."""
    terminal = Terminal(("login", "--issuer", issuer.url, "--no-browser", "-o", "json"), dict(os.environ), 80)
    try:
        terminal.until("paste that address here")
        url = next(line for line in terminal.text.split() if line.startswith("http"))
        terminal.types("hello\n")
        terminal.until("that is not the address the browser was sent to")
        sent_to = httpx.get(url, trust_env=False).headers["location"]
        terminal.types(f"{sent_to}\n")
        code, out = terminal.end()
    finally:
        terminal.close()
    assert (code, json.loads(out)["identity"]) == (0, "ada@acme.test")
    assert stored.exists()
