"""
An OpenID issuer that says what a test tells it to say, right or wrong: real HTTP on port 0, real keys.

`issuer.wrong` holds what it does otherwise than it should; `issuer.asked` what it was asked, in order.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlencode

import httpx
from joserfc import jwt
from joserfc.jwk import OKPKey, RSAKey

from tests.bounds import BOUND_S

from .fake import Ran

RSA = RSAKey.generate_key(2048, {"kid": "rsa", "use": "sig"})
ED = OKPKey.generate_key("Ed25519", {"kid": "ed", "use": "sig"})
STRANGER = RSAKey.generate_key(2048, {"kid": "rsa"})


def signed(claims: dict[str, Any], key: RSAKey | OKPKey = RSA, alg: str = "RS256") -> str:
    """A token; the old name of Ed25519 is what issuers use."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return jwt.encode({"alg": alg, "kid": key.kid}, claims, key, algorithms=[alg])


def licence(**more: Any) -> str:
    now = int(time.time())
    claims = {"aud": ["mcpg-cp"], "iat": now, "nbf": now, "exp": now + 600, "plan": "pro", "tenant_slug": "acme"}
    return signed(claims | more, ED, "EdDSA")


class Issuer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.wrong: dict[str, Any] = {}
        self.lifetime = 600
        self.refresh_token = "rt-1"
        self.hold = threading.Event()  # ends a silence

    def id_token(self, **more: Any) -> str:
        now = int(time.time())
        claims = {"iss": self.url, "sub": "u-1", "aud": "mcpg-ctl", "iat": now, "exp": now + self.lifetime}
        key, alg = self.wrong.get("key", (RSA, "RS256"))
        return self.wrong.get("id_token") or signed(
            claims | {"email": "ada@acme.test"} | self.wrong.get("claims", {}) | more, key, alg
        )

    def paths(self) -> list[str]:
        return [path for path, _ in self.asked]


class Handler(BaseHTTPRequestHandler):
    server: Issuer

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        self.answer(path, dict(parse_qsl(query)))

    def do_POST(self) -> None:
        form = self.rfile.read(int(self.headers["content-length"])).decode()
        self.answer(self.path, dict(parse_qsl(form)))

    def answer(self, path: str, given: dict[str, str]) -> None:
        issuer = self.server
        issuer.asked.append((path, given))
        if path in issuer.wrong:
            return self.misbehave(issuer.wrong[path])
        url = issuer.url
        if path == "/.well-known/openid-configuration":
            names = ("authorization_endpoint", "token_endpoint", "jwks_uri", "revocation_endpoint")
            known = {name: f"{url}/{name.partition('_')[0]}" for name in names}
            return self.say({"issuer": url, **known, **issuer.wrong.get("discovery", {})})
        if path == "/authorization":
            back = {"code": "code-1", "state": given["state"], **issuer.wrong.get("redirect", {})}
            self.send_response(302)
            self.send_header("location", f"{given['redirect_uri']}?{urlencode(back)}")
            self.send_header("content-length", "0")
            return self.end_headers()
        if path == "/token":
            return self.say(*self.tokens(given))
        if path == "/jwks":
            return self.say({"keys": [RSA.as_dict(private=False), ED.as_dict(private=False), {"kty": "strange"}]})
        return self.say({})

    def tokens(self, given: dict[str, str]) -> tuple[dict[str, Any], int]:
        issuer = self.server
        if given["grant_type"] == "refresh_token":
            if given["refresh_token"] != issuer.refresh_token:
                return {"error": "invalid_grant", "error_description": "grant request is invalid"}, 400
            issuer.refresh_token = f"rt-{int(issuer.refresh_token[3:]) + 1}"
        tokens = {
            "access_token": "at-1",
            "id_token": issuer.id_token(),
            "refresh_token": issuer.refresh_token,
            "token_type": "Bearer",
        }
        return tokens | issuer.wrong.get("tokens", {}), 200

    def misbehave(self, how: Any) -> None:
        if how == "silent":
            self.server.hold.wait(BOUND_S)
        elif how == "drip":  # never ends, and is never silent
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                while not self.server.hold.wait(0.05):
                    self.wfile.write(b" ")
        elif isinstance(how, bytes):
            self.send_response(200)
            self.send_header("content-length", str(len(how)))
            self.end_headers()
            self.wfile.write(how)
        else:
            status, headers = how
            self.send_response(status)
            for name, value in {"content-length": "0", **headers}.items():
                self.send_header(name, value)
            self.end_headers()

    def say(self, data: Any, status: int = 200) -> None:
        body = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None: ...


@contextlib.contextmanager
def running() -> Iterator[Issuer]:
    issuer = Issuer()
    thread = threading.Thread(target=issuer.serve_forever, kwargs={"poll_interval": 0.05}, name="issuer")
    thread.start()
    try:
        yield issuer
    finally:
        issuer.hold.set()
        issuer.shutdown()
        issuer.server_close()
        thread.join()


class Login:
    """`mcpg-ctl login` as a process. It waits for a browser, and the test is the browser."""

    def __init__(self, issuer: str, *argv: str) -> None:
        command = [sys.executable, "-m", "mcpg.cli.main", "login", "--issuer", issuer, *argv]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self._said = ""

    def url(self) -> str:
        """The address where it sends people, once it has printed it: the line that is nothing else."""
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._said += line
            if line.startswith("http"):
                return line.strip()
        raise AssertionError(self._said)

    def interrupt(self) -> None:
        self._process.send_signal(signal.SIGINT)

    def end(self) -> Ran:
        out, err = self._process.communicate(timeout=BOUND_S)
        return Ran(self._process.returncode, out, self._said + err)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def browse(url: str) -> httpx.Response:
    """What a browser does with an issuer that asks nothing: it is sent on, and shows the page where it ends."""
    return httpx.get(url, follow_redirects=True, trust_env=False, timeout=BOUND_S)
