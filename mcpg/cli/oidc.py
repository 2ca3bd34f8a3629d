"""
The client side of OpenID Connect: authorization code with PKCE for a public client, renewal, revocation.

login.py signs in with it, credentials.py renews with it. HTTP goes through client.py; joserfc, which checks the
signatures, is imported only when a token is verified.
"""

from __future__ import annotations

import base64
import hashlib
import time
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit

from mcpg.cli.client import fetch, is_guarded
from mcpg.cli.credentials import Stored, claims, now, number
from mcpg.errors import Failed, Usage

ANSWER_S = 10.0
LICENCE_AUDIENCE = "mcpg-cp"
_REVOKE_S = 3.0
_LEEWAY_S = 60
_SCOPE = "openid email profile"
_ALGORITHMS = {"RS256": "RSA", "EdDSA": "OKP", "Ed25519": "OKP"}  # and the kind of key each needs; the last two are one


class Issuer(NamedTuple):
    """What an issuer says of itself. `revocation_endpoint` is "" when it offers none."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    revocation_endpoint: str


def check_url(url: str) -> str:
    """*url* when it can be an issuer's. Raises Usage for plain http to another machine: codes and tokens go there."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if usable and "@" in parts.netloc:
        raise Usage(
            "--issuer holds a name or a password",
            cause="an issuer's URL is public",
            hint=f"--issuer {parts.scheme}://{parts.hostname}",
        )
    if not usable or parts.query or parts.fragment:
        raise Usage(f"--issuer {url} is not an issuer's URL", hint="--issuer https://auth.example.com")
    if not is_guarded(url):
        why = "over plain http everybody on the way could read the tokens; only this machine may do without TLS"
        raise Usage(f"--issuer {url} is not https", cause=why, hint=f"--issuer {url.replace('http:', 'https:', 1)}")
    return url


def discover(url: str, seconds: float = ANSWER_S) -> Issuer:
    """The issuer at *url*. Raises Unavailable when it does not answer, Failed when what answers is none."""
    where = f"{check_url(url).rstrip('/')}/.well-known/openid-configuration"
    status, said = fetch("GET", where, seconds=seconds)
    if status != 200 or not isinstance(said, dict):
        hint = "--issuer URL, without /.well-known/…"
        raise Failed(f"{url} is not an OpenID issuer", cause=f"{where}: {_said(status, said)}", hint=hint)
    texts = {name: said[name] for name in Issuer._fields if isinstance(said.get(name), str)}
    found = Issuer(**{name: texts.get(name, "") for name in Issuer._fields})
    if found.issuer.rstrip("/") != url.rstrip("/"):
        raise Failed(
            f"{url} is not the issuer it says it is", cause=f'it calls itself "{found.issuer}"', hint="--issuer URL"
        )
    for name, value in found._asdict().items():
        if not value and name != "revocation_endpoint":
            raise _misconfigured(url, f"its discovery document names no {name}")
        if value and not is_guarded(value):
            raise _misconfigured(url, f"its {name} is not https: {value}")
    return found


def _misconfigured(url: str, why: str) -> Failed:
    return Failed(f"{url} cannot be signed in to", cause=why, hint="ask who runs it, or another issuer: --issuer URL")


def authorize_url(issuer: Issuer, client_id: str, redirect_uri: str, state: str, verifier: str) -> str:
    """Where a person signs in."""
    query = {
        "response_type": "code",
        "client_id": client_id,
        "redirect_uri": redirect_uri,
        "scope": _SCOPE,
        "state": state,
        "code_challenge": unpadded(hashlib.sha256(verifier.encode()).digest()),
        "code_challenge_method": "S256",
    }
    joint = "&" if "?" in issuer.authorization_endpoint else "?"
    return f"{issuer.authorization_endpoint}{joint}{urlencode(query)}"


def unpadded(raw: bytes) -> str:
    """base64url as OAuth has it."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def exchange(
    issuer: Issuer, client_id: str, redirect_uri: str, code: str, verifier: str, seconds: float
) -> dict[str, Any]:
    """The tokens for *code*: `id_token` and `access_token`, and what else the issuer gave. Raises Failed, Unavailable."""
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": redirect_uri,
        "client_id": client_id,
        "code_verifier": verifier,
    }
    said = _granted(issuer, form, seconds)
    for name in ("id_token", "access_token"):
        if not isinstance(said.get(name), str) or not said[name]:
            raise _misconfigured(issuer.issuer, f"its answer holds no {name}")
    return said


def _granted(issuer: Issuer, form: dict[str, str], seconds: float) -> dict[str, Any]:
    status, said = fetch("POST", issuer.token_endpoint, form=form, seconds=seconds)
    if status == 200 and isinstance(said, dict):
        return said
    grant = form["grant_type"].replace("_", " ")
    hint = f"is {form['client_id']} registered there, as a public native client?      another name: --client-id ID"
    raise Failed(f"{issuer.issuer} refused the {grant}", cause=_said(status, said), hint=hint)


def _said(status: int, said: Any) -> str:
    """An issuer's refusal in its own words, else in ours."""
    words = [said[name] for name in ("error", "error_description") if said.get(name)] if isinstance(said, dict) else []
    if words:
        return ": ".join(str(word)[:200] for word in words)
    return f"it answered {status}" + (", and no JSON object" if status == 200 else "")


def keys(issuer: Issuer, seconds: float) -> list[dict[str, Any]]:
    """The issuer's public keys. Raises Failed, Unavailable."""
    status, said = fetch("GET", issuer.jwks_uri, seconds=seconds)
    found = said.get("keys") if status == 200 and isinstance(said, dict) else None
    if not isinstance(found, list):
        raise _misconfigured(issuer.issuer, f"its keys, {issuer.jwks_uri}: {_said(status, said)}")
    return [key for key in found if isinstance(key, dict)]


def verify(token: str, jwks: list[dict[str, Any]], *, audience: str, issuer: str = "") -> dict[str, Any]:
    """
    The claims of *token*, signed by one of *jwks* for *audience* and, where it is given, by *issuer*. Raises Failed.

    The algorithm decides the kind of key, never the other way round, and `none` and HS* are no algorithms here.
    """
    header = claims(f".{token.partition('.')[0]}")
    algorithm = str(header.get("alg", ""))
    if algorithm not in _ALGORITHMS:
        signed = f'it is signed with "{algorithm}"' if algorithm else "it is not signed"
        raise _invalid(f"{signed}, and only RS256 and EdDSA are taken")
    for key in jwks:
        is_fit = key.get("kty") == _ALGORITHMS[algorithm] and key.get("use", "sig") == "sig"
        if not is_fit or ("kid" in header and key.get("kid", header["kid"]) != header["kid"]):
            continue
        if (found := _signed(token, key, algorithm)) is not None:
            check(found, audience=audience, issuer=issuer)
            return found
    raise _invalid("none of the issuer's keys has signed it")


def _signed(token: str, key: dict[str, Any], algorithm: str) -> dict[str, Any] | None:
    """The claims of *token* when this very key has signed it."""
    import warnings

    from joserfc import jwt
    from joserfc.errors import JoseError, SecurityWarning
    from joserfc.jwk import JWKRegistry

    with warnings.catch_warnings():
        warnings.simplefilter("error", SecurityWarning)  # a key too short to trust is refused
        warnings.filterwarnings("ignore", message="EdDSA", category=SecurityWarning)  # only its name is old
        try:
            return jwt.decode(token, JWKRegistry.import_key(key), algorithms=[algorithm]).claims
        except (JoseError, SecurityWarning, ValueError, KeyError, TypeError):
            return None


def check(found: dict[str, Any], *, audience: str, issuer: str = "") -> None:
    """Raises Failed when the claims are not for us, not theirs, or not of now; clocks may differ by a minute."""
    aud = found.get("aud")
    audiences = aud if isinstance(aud, list) else [aud]
    moment = time.time()
    expires, issued, begins = (number(found.get(name)) for name in ("exp", "iat", "nbf"))
    if issuer and found.get("iss") != issuer:
        raise _invalid(f'its iss is "{found.get("iss")}", not "{issuer}"')
    if audience not in audiences:
        raise _invalid(f'its aud is "{", ".join(map(str, audiences))}", not "{audience}"')
    if expires is None or issued is None:
        raise _invalid("it does not say when it was issued and when it ends")
    if expires <= moment - _LEEWAY_S:
        raise _invalid("it has expired")
    if max(issued, begins or 0) > moment + _LEEWAY_S:
        raise _invalid("it is from the future")


def _invalid(why: str) -> Failed:
    hint = "are --issuer, --client-id and the clock of this machine right?"
    return Failed("the id_token is not valid", cause=why, hint=hint)


def renew(stored: Stored) -> Stored:
    """
    *stored* with new tokens for its refresh token; the licence stays. Raises Failed, Unavailable.

    The new id_token comes from the issuer itself over a guarded way, so its claims are compared and its signature is
    left to the control plane.
    """
    end = time.monotonic() + ANSWER_S
    issuer = discover(stored.issuer)
    form = {"grant_type": "refresh_token", "refresh_token": stored.refresh_token or "", "client_id": stored.client_id}
    said = _granted(issuer, form, max(end - time.monotonic(), 0.1))
    tokens = {
        name: said[name] for name in ("id_token", "access_token", "refresh_token") if isinstance(said.get(name), str)
    }
    if "id_token" in tokens:
        old, new = claims(stored.id_token), claims(tokens["id_token"])
        check(new, audience=stored.client_id, issuer=issuer.issuer)
        if old.get("sub", new.get("sub")) != new.get("sub"):
            raise Failed("the id_token is not valid", cause="it is somebody else's")
    return stored._replace(**tokens, stored_at=now())


def revoke(stored: Stored) -> bool:
    """Has the issuer forget the refresh token; False when it offers no such thing. Raises Failed, Unavailable."""
    end = time.monotonic() + _REVOKE_S
    issuer = discover(stored.issuer, _REVOKE_S)
    if not issuer.revocation_endpoint:
        return False
    form = {"token": stored.refresh_token or "", "token_type_hint": "refresh_token", "client_id": stored.client_id}
    status, _ = fetch("POST", issuer.revocation_endpoint, form=form, seconds=max(end - time.monotonic(), 0.1))
    if status != 200:
        raise Failed(f"{issuer.issuer} did not revoke the refresh token", cause=f"it answered {status}")
    return True
