"""
`mcpg-ctl login`, `logout` and `auth status`: the login of this machine, stored in its state directory.

login goes: discovery → the browser, and back to callback.py → tokens → keys → the file of credentials.py. The protocol is in
oidc.py. No token is ever printed.
"""

from __future__ import annotations

import secrets
import shlex
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from mcpg.cli import browser, credentials, render, resolve
from mcpg.cli.credentials import Stored
from mcpg.cli.parse import Line
from mcpg.errors import Failed, McpgError, StateDirUnusable, TimedOut

_NOBODY = Stored("", "", "", "", None, None, None, "")


def login(line: Line) -> int:
    """Signs in with the browser and stores the tokens; nothing is stored when anything about them is wrong."""
    values = resolve.values(line)
    from mcpg.cli import oidc

    oidc.check_url(values.issuer)
    where = credentials.path(values.state_dir)
    _check_writable(values.state_dir)
    _say(f"the login will be stored in {render.clean(where)}, for you alone to read")
    stored = _signed_in(values.issuer, values.client_id, values.timeout, with_browser=not values.no_browser)
    with credentials.locked(values.state_dir):
        credentials.save(values.state_dir, stored)
    _show(values.output, facts(stored, where))
    return 0


def _check_writable(state_dir: Path) -> None:
    """Before anybody signs in for nothing."""
    try:
        with credentials.locked(state_dir):
            pass
    except OSError as exc:
        cause = exc.strerror or str(exc)
        raise StateDirUnusable(f"no login can be stored in {state_dir}", cause=cause, hint="--state-dir PATH") from None


def _signed_in(url: str, client_id: str, seconds: float, *, with_browser: bool) -> Stored:
    """The tokens of whoever signs in at *url* within *seconds*. Raises Failed, Unavailable, TimedOut."""
    from mcpg.cli import callback, oidc

    end = time.monotonic() + seconds
    late = TimedOut(
        f"nobody has signed in within {seconds:g} s",
        cause="the browser has not come back",
        hint="run it again; more time: --timeout SECONDS      a browser elsewhere: --no-browser",
    )

    def left() -> float:
        if (rest := end - time.monotonic()) <= 0:
            raise late
        return min(rest, oidc.ANSWER_S)

    issuer = oidc.discover(url, left())
    state, verifier = oidc.unpadded(secrets.token_bytes(24)), oidc.unpadded(secrets.token_bytes(32))
    listener, redirect_uri = callback.listen()
    with listener:
        url = oidc.authorize_url(issuer, client_id, redirect_uri, state, verifier)
        expected = callback.Expected(state, issuer.issuer)
        begin = partial(_send_away, url, with_browser=with_browser)
        try:
            code = callback.code(listener, expected, end - time.monotonic(), begin=begin, paste=_can_paste())
        except TimeoutError:
            raise late from None
    tokens = oidc.exchange(issuer, client_id, redirect_uri, code, verifier, left())
    jwks = oidc.keys(issuer, left())
    claims = oidc.verify(tokens["id_token"], jwks, audience=client_id, issuer=issuer.issuer)
    email = claims.get("email")
    return Stored(
        issuer=issuer.issuer,
        client_id=client_id,
        id_token=tokens["id_token"],
        access_token=tokens["access_token"],
        refresh_token=_text(tokens.get("refresh_token")),
        license_jwt=_licence(_text(tokens.get("mcpg_license_jwt")), jwks),
        email=email if isinstance(email, str) else None,
        stored_at=credentials.now(),
    )


def _send_away(url: str, *, with_browser: bool) -> None:
    """The URL stands alone in its line, so that a script finds it; it is printed in any case, for a browser may fail."""
    opens = with_browser and browser.can_open()
    _say("the browser opens; if it does not, sign in at" if opens else "sign in at")
    _say(render.clean(url))
    if _can_paste():
        _say("a browser on another machine ends at an address it cannot reach: paste that address here")
    if opens:
        browser.open_page(url)


def _can_paste() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _text(value: Any) -> str | None:
    return value if value and isinstance(value, str) else None


def _licence(token: str | None, jwks: list[dict[str, Any]]) -> str | None:
    """The licence as it came: whether it is good is for the control plane to say, so here a bad one is only a warning."""
    if token is None:
        return None
    from mcpg.cli import oidc

    try:
        oidc.verify(token, jwks, audience=oidc.LICENCE_AUDIENCE)
    except Failed as exc:
        _say(f"{render.painted('warning:', 'yellow', sys.stderr)} the licence is not valid: {render.clean(exc.cause)}")
    return token


def status(line: Line) -> int:
    """Shows the stored login. Reads the file only: nothing is renewed, nobody is asked."""
    values = resolve.values(line)
    stored = credentials.load(values.state_dir)
    _show(values.output, facts(stored, credentials.path(values.state_dir)))
    return 0


def facts(stored: Stored | None, where: Path) -> dict[str, Any]:
    """A login as data, without its secrets. Times are RFC 3339."""
    who = stored or _NOBODY
    ends = who.expires_at
    return {
        "signed_in": stored is not None,
        "path": str(where),
        "identity": who.identity if stored else None,
        "issuer": who.issuer or None,
        "client_id": who.client_id or None,
        "stored_at": who.stored_at or None,
        "expires_at": None if ends is None else credentials.rfc3339(ends),
        "expired": ends is not None and ends <= time.time(),
        "renewable": who.is_renewable,
        "license": _license_facts(who.license_jwt),
    }


def _license_facts(token: str | None) -> dict[str, Any] | None:
    if token is None:
        return None
    claims = credentials.claims(token)
    ends = credentials.number(claims.get("exp"))
    return {
        "plan": str(claims.get("plan") or ""),
        "tenant": str(claims.get("tenant_slug") or ""),
        "expires_at": None if ends is None else credentials.rfc3339(ends),
    }


def _show(output: str, data: dict[str, Any]) -> None:
    names = [data["identity"]] if data["signed_in"] else []
    render.emit(output, data, table=lambda: table(data, time.time()), names=names)


def table(data: dict[str, Any], now: float) -> list[str]:
    """For people: who, where, how long, and what to do when it is over."""
    if not data["signed_in"]:
        return ["not signed in", *render.columns([("stored in", f"{data['path']} (nothing there)")], indent=2)]
    ends = data["expires_at"]
    rows = [("issuer", data["issuer"] or "–"), ("client", data["client_id"] or "–")]
    if ends is None:
        rows += [("token", "does not say when it ends")]
    elif data["expired"]:
        rows += [("token", f"expired {render.ago(ends, now)}")]
    else:
        rows += [("token", f"ends in {render.took(((render.epoch(ends) or now) - now) * 1000)}")]
    again = "when it is next used" if data["renewable"] else f"no; {credentials.sign_in(data['issuer'] or '')}"
    rows += [("renewed", again)]
    if data["license"]:
        rows += [("licence", "plan={plan} tenant={tenant}".format_map(data["license"]))]
    rows += [("stored in", data["path"])]
    return [f"signed in as {render.clean(data['identity'])}", *render.columns(rows, indent=2)]


def logout(line: Line) -> int:
    """Removes the stored login, in whatever state it is, and then tells the issuer, who may not be there."""
    values = resolve.values(line)
    where = credentials.path(values.state_dir)
    try:
        stored = credentials.load(values.state_dir)
    except McpgError as exc:
        stored = None
        _say(f"{render.clean(exc.what)}, {render.clean(exc.cause)}: removed unread")
    try:
        removed = _removed(values.state_dir)
    except OSError as exc:
        hint = f"rm -r {shlex.quote(str(where))}"
        raise McpgError(f"{where} cannot be removed", cause=exc.strerror or str(exc), hint=hint) from None
    revoked = _revoked(stored) if stored and stored.is_renewable else False
    data = {"path": str(where), "removed": removed, "revoked": revoked}
    said = "signed out" if removed else "nobody was signed in"
    render.emit(values.output, data, table=lambda: [f"{said}{', refresh token revoked' if revoked else ''}"])
    return 0


def _removed(state_dir: Path) -> bool:
    if not state_dir.is_dir():
        return False
    with credentials.locked(state_dir):
        return credentials.delete(state_dir)


def _revoked(stored: Stored) -> bool:
    """Best effort: signing out here needs nobody's consent."""
    from mcpg.cli import oidc

    try:
        return oidc.revoke(stored)
    except McpgError as exc:
        _say(f"the refresh token was not revoked: {render.clean(exc.what)}: {render.clean(exc.cause)}")
        return False


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
