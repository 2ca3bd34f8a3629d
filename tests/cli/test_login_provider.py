"""`login` with a certified OpenID provider, and the stored login shared with the real `mcpg-cloud`."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx
import pytest

from tests.bounds import BOUND_S
from tests.conftest import ROOT, real

from .fake import Ctl, Fake, Ran, data
from .issuer import Login

pytestmark = pytest.mark.peer
MODULES = ROOT / ".cache/oidc/node_modules"
HISTORY = ("provision", "history", "--org", "acme")
OPERATIONS = "/v1/orgs/acme/operations"


class Provider:
    """npm `oidc-provider` as a process. `asked` is what it was asked since it was last read."""

    def __init__(self, log: Path, lifetime_s: int) -> None:
        if not (MODULES / "oidc-provider").exists():
            pytest.fail(f"{MODULES} is missing: run `make oidc`", pytrace=False)
        self._log = log
        self._read = 0
        script = [str(Path(__file__).with_name("provider.mjs")), str(MODULES), str(lifetime_s)]
        with log.open("wb") as err:
            self._process = subprocess.Popen(["node", *script], stdout=subprocess.PIPE, stderr=err, text=True)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        assert self.url, log.read_text()

    def asked(self) -> list[str]:
        lines = self._log.read_text().splitlines()
        new, self._read = lines[self._read :], len(lines)
        return [line for line in new if line.startswith(("GET ", "POST "))]

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


StartProvider = Callable[..., Provider]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[StartProvider]:
    started: list[Provider] = []

    def begin(lifetime_s: int = 600) -> Provider:
        started.append(Provider(tmp_path / "provider.log", lifetime_s))
        return started[-1]

    yield begin
    for provider in started:
        provider.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state/credentials.json"


def sign_in(url: str, name: str) -> httpx.Response:
    """A person with a browser: fills in what the provider's pages ask for, until the page of `mcpg-ctl`."""
    with httpx.Client(follow_redirects=True, trust_env=False, timeout=BOUND_S) as browser:
        page = browser.get(url)
        while form := re.search(r'<form[^>]*action="([^"]+)"', page.text):
            fields = dict(re.findall(r'<input[^>]*type="hidden"[^>]*name="([^"]+)"[^>]*value="([^"]*)"', page.text))
            fields |= {"login": name, "password": "anything"} if 'name="login"' in page.text else {}
            page = browser.post(urljoin(str(page.url), unescape(form[1])), data=fields)
        return page


def signed_in(provider: Provider, *argv: str) -> Ran:
    login = Login(provider.url, "--no-browser", *argv)
    try:
        assert "Back to the terminal" in sign_in(login.url(), "ada").text
        return login.end()
    finally:
        login.close()


def now_in(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text())
    return found


@pytest.mark.parametrize("client", ["mcpg-ctl", "with-eddsa"])
def test_a_login_from_the_first_page_to_the_last(start: StartProvider, ctl: Ctl, file: Path, client: str) -> None:
    """RS256 and EdDSA, with PKCE, consent and all; then out again, and the refresh token is worth nothing."""
    provider = start()
    ran = signed_in(provider, "--client-id", client, "-o", "json")
    assert ran.code == 0, ran.err
    assert ran.json["identity"] == "ada@acme.test"
    assert (ran.json["issuer"], ran.json["client_id"], ran.json["renewable"]) == (provider.url, client, True)
    assert ctl("auth", "status", "-o", "json").json == ran.json
    refresh_token = now_in(file)["refresh_token"]
    assert ctl("logout") == (0, "signed out, refresh token revoked\n", "")
    form = {"grant_type": "refresh_token", "refresh_token": refresh_token, "client_id": client}
    answer = httpx.post(f"{provider.url}/token", data=form, trust_env=False)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")


def test_refresh_tokens_rotate(start: StartProvider, ctl: Ctl, fake: Fake, file: Path) -> None:
    """Each is good for one use: a second use of one would end the whole login, and commands at once do not do that."""
    fake.says("GET", OPERATIONS, data([]))
    provider = start(lifetime_s=30)
    assert signed_in(provider).code == 0
    before = now_in(file)
    provider.asked()
    assert ctl(*HISTORY, "--cp-url", fake.url).code == 0
    after = now_in(file)
    assert provider.asked() == ["GET /.well-known/openid-configuration", "POST /token"]
    assert after["refresh_token"] != before["refresh_token"]
    assert [each.headers["authorization"] for each in fake.asked] == [f"Bearer {after['id_token']}"]
    assert ctl(*HISTORY, "--cp-url", fake.url).code == 0
    assert now_in(file)["refresh_token"] != after["refresh_token"]


def test_a_user_who_says_no(start: StartProvider, file: Path) -> None:
    provider = start()
    login = Login(provider.url)
    try:
        with httpx.Client(follow_redirects=True, trust_env=False, timeout=BOUND_S) as browser:
            page = browser.get(login.url())
            abort = re.search(r'href="([^"]*abort)"', page.text)
            assert abort is not None
            page = browser.get(urljoin(str(page.url), unescape(abort[1])))
        ran = login.end()
    finally:
        login.close()
    assert (ran.code, "Not signed in" in page.text, file.exists()) == (1, True, False)
    assert ran.err.splitlines()[-2] == "cause: access_denied: End-User aborted interaction"


def cloud(state: Path, url: str, *argv: str) -> str:
    """stdout and stderr of the real tenant CLI on our state directory; it must exit with 0."""
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(state.parent), "MCPG_STATE_DIR": str(state), "MCPG_ORG": "acme"}
    done = subprocess.run(
        [str(real("mcpg-cloud")), "--cp-url", url, *argv], env=environ, text=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=BOUND_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_the_real_client_reads_renews_and_clears_our_login(
    start: StartProvider, ctl: Ctl, fake: Fake, file: Path
) -> None:
    """One file for both: it sends our token, what it renews we send, what we renew it sends, and its logout is ours."""
    fake.says("GET", OPERATIONS, data([]))
    fake.says("GET", "/v1/orgs", data([]))
    provider = start()
    assert signed_in(provider).code == 0
    ours = now_in(file)
    cloud(file.parent, fake.url, "whoami")
    assert {each.headers["authorization"] for each in fake.asked} == {f"Bearer {ours['id_token']}"}

    _ends_now(file)
    fake.asked.clear()
    cloud(file.parent, fake.url, "whoami")
    theirs = now_in(file)
    assert theirs["refresh_token"] != ours["refresh_token"]
    assert ctl(*HISTORY, "--cp-url", fake.url).code == 0
    assert {each.headers["authorization"] for each in fake.asked} == {f"Bearer {theirs['id_token']}"}

    _ends_now(file)
    fake.asked.clear()
    assert ctl(*HISTORY, "--cp-url", fake.url).code == 0
    cloud(file.parent, fake.url, "whoami")
    assert {each.headers["authorization"] for each in fake.asked} == {f"Bearer {now_in(file)['id_token']}"}
    assert list(theirs) == list(ours)
    assert os.stat(file).st_mode & 0o777 == 0o600

    cloud(file.parent, fake.url, "logout")
    assert ctl("auth", "status", "-o", "json").json["signed_in"] is False


def _ends_now(file: Path) -> None:
    """The same login with a token that nobody can read the end of, which both clients take for one that is due."""
    file.write_text(json.dumps(now_in(file) | {"id_token": "opaque"}))
