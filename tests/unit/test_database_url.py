"""What of a database's URL may be shown, and what its options are taken to be."""

from __future__ import annotations

import pytest

from mcpg.host.database_url import parts_of, scheme_of, shown, without

SHOWN = {
    "postgres://mcpg:s3cret@db.test:5432/m1?sslmode=require": "postgres://db.test:5432/m1",
    "postgres://mcpg:s3@cret@db.test/m1": "postgres://db.test/m1",  # a password with an @
    "postgres://mcpg@/m1?host=/run/postgresql": "postgres:///m1",  # a socket
    "postgres:///m1": "postgres:///m1",
    "postgres://mcpg:s3cret@/m1": "postgres://…",  # neither host nor option: what stands there is anything
    "postgres://mcpg:12/s3cret@db.test/m1": "postgres://…",
    "  POSTGRES://mcpg:s3cret#x@db.test/m1": "postgres://…",
    "://mcpg:s3cret@db.test/m1": "a URL",
    "mcpg-s3cret": "a URL",
}


@pytest.mark.parametrize("url", SHOWN)
def test_what_may_be_shown_of_a_url(url: str) -> None:
    assert shown(url) == SHOWN[url]
    assert (parts_of(url) is None) == (SHOWN[url] in ("postgres://…", "a URL"))


@pytest.mark.parametrize(
    ("url", "scheme"),
    [("postgres://h", "postgres"), (" SQLite:x", "sqlite"), ("a b://h", ""), ("1st://h", ""), ("plain", ""), ("", "")],
)
def test_the_scheme(url: str, scheme: str) -> None:
    assert scheme_of(url) == scheme


def test_an_option_is_taken_out_and_the_others_stay() -> None:
    """The last of several counts; an empty one is kept; what cannot be read is refused, not dropped."""
    assert without("postgres://h/m1?a=1&b=&a=2", "a") == ("postgres://h/m1?b=", "2")
    assert without("postgres://h/m1?b=1", "a") == ("postgres://h/m1?b=1", "")
    assert without("postgres://h/m1?aa=1", "a") == ("postgres://h/m1?aa=1", "")
    with pytest.raises(ValueError, match="bad query field"):
        without("postgres://h/m1?a=1&s3cret", "a")
