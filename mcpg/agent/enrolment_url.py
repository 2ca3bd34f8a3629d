"""
The bootstrap token inside an enrolment URL. The URL is never fetched: the token in it is all a gateway needs.

Called by mcpg/agent/identity.py. Source of the two forms: contract/agent.md §2 and contract/cli.md.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from mcpg import errors

NEXT: Final = "mcpg-ctl token create -o name | mcpg-ctl gateway --enrollment-url-file -"
HINT = "copy the whole URL, in quotes: mcpg-ctl gateway --enrollment-url 'http://HOST:7843/enroll/v1#token=ENROL-…'"


def parse(url: str) -> str:
    """
    The token of *url*, as it stands there (nothing is percent-decoded).

    Accepts `…/enroll/v1#token=TOKEN` (what a control plane mints; other keys may stand in the fragment, the first
    `token=` counts) and the older `…/enroll/TOKEN`. Raises errors.Usage otherwise; its text never holds the URL,
    because a mangled URL still holds a secret.
    """
    before, hash_sign, fragment = url.strip().partition("#")
    token = _from_fragment(fragment) if hash_sign else _from_path(before)
    # Not printable covers control characters and what a terminal pasted in; such a token cannot be one we minted.
    if not token.isprintable() or " " in token:
        raise _bad("its token contains white space or control characters")
    return token


def _from_fragment(fragment: str) -> str:
    found = next((piece for piece in fragment.split("&") if piece.startswith("token=")), None)
    if found is None:
        raise _bad("the part after # has no token=…")
    token = found.removeprefix("token=")
    if not token:
        raise _bad("its token is empty")
    return token


def _from_path(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        raise _bad("it is not a URL") from None
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        raise _bad("it is not an http(s) URL")
    _, enroll, token = parts.path.rpartition("/enroll/")
    token = token.removesuffix("/")
    if not enroll or not token or "/" in token:
        raise _bad("it has neither #token=… nor a path that ends in /enroll/TOKEN")
    if token == "v1":  # noqa: S105 - the path of the other form
        # A shell or a chat client ate the fragment: by far the likeliest way to get here.
        raise _bad("its last part, #token=…, is missing")
    return token


def _bad(cause: str) -> errors.Usage:
    return errors.Usage("the enrolment URL carries no usable token", cause=cause, hint=HINT)
