"""
What may be shown of a database's URL, and whether it says what whoever wrote it meant. Pure; used by the store and the CLI.

A password that holds / ? # @ and is not escaped ends where such a character stands, and its rest is taken for something
else. Nothing of such a URL is shown but its scheme.
"""

from __future__ import annotations

import re
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")


def scheme_of(url: str) -> str:
    """In small letters; "" when it has none."""
    found, colon, _ = url.strip().partition(":")
    return found.lower() if colon and _SCHEME.fullmatch(found) else ""


def parts_of(url: str) -> SplitResult | None:
    """Its parts; None when it cannot be taken apart, or what should be a password stands somewhere else in it."""
    try:
        parts = urlsplit(url)
        hosts = parts.netloc.rpartition("@")[2]
        if "@" not in parts.netloc:
            _ = parts.port  # raises for what is none: a password whose rest is elsewhere, most likely
    except ValueError:
        return None
    strays = "@" in parts.path or "@" in parts.query or parts.fragment
    if not parts.scheme or strays or (parts.netloc and not (hosts or parts.query)):
        return None
    return parts


def shown(url: str) -> str:
    """The URL as it may be seen: without user, password and options."""
    parts = parts_of(url)
    if parts is None:
        scheme = scheme_of(url)
        return f"{scheme}://…" if scheme else "a URL"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def without(url: str, option: str) -> tuple[str, str]:
    """The URL without one of its options, and what that was; "" when it has none. Raises ValueError for garbled ones."""
    parts = urlsplit(url)
    if option not in parts.query:
        return url, ""
    pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=True)
    found = [value for name, value in pairs if name == option]
    kept = urlencode([pair for pair in pairs if pair[0] != option])
    return parts._replace(query=kept).geturl(), found[-1] if found else ""
