from __future__ import annotations

import pytest

from mcpg import errors
from mcpg.agent.enrolment_url import parse


@pytest.mark.parametrize(
    ("url", "token"),
    [
        ("http://127.0.0.1:7843/enroll/v1#token=ENROL-abc", "ENROL-abc"),
        ("https://cp.example/any/path?x=1#a=b&token=T&token=U", "T"),
        ("https://cp.example#token=T", "T"),
        ("#token=T", "T"),
        ("https://cp.example/enroll/v1#token=%41%2F", "%41%2F"),
        ("https://cp.example/enroll/v1#token=a=b", "a=b"),
        ("  https://cp.example/enroll/v1#token=T\n", "T"),
        ("https://cp.example/enroll/abc123", "abc123"),
        ("https://cp.example/prefix/enroll/abc123/", "abc123"),
        ("https://cp.example/enroll/abc123?x=1", "abc123"),
    ],
)
def test_the_token_is_taken_as_it_stands(url: str, token: str) -> None:
    assert parse(url) == token


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "not an http(s) URL"),
        ("s3cret", "not an http(s) URL"),
        ("ftp://h/enroll/s3cret", "not an http(s) URL"),
        ("http://[s3cret/enroll/x", "not a URL"),
        ("http://h/enroll/v1#s3cret", "no token="),
        ("http://h/enroll/v1#token=", "empty"),
        ("http://h/enroll/v1?token=s3cret", "#token=…, is missing"),
        ("http://h/enroll/", "neither"),
        ("http://h/s3cret", "neither"),
        ("http://h/enroll/s3cret/more", "neither"),
        ("http://h/enroll/v1#token=s3c ret", "white space"),
        ("http://h/enroll/v1#token=s3cret\x1b[2J", "control characters"),
        ("http://h/enroll/v1#token=s3cret\udcff", "control characters"),
    ],
)
def test_anything_else_is_a_usage_error_that_keeps_the_secret(url: str, why: str) -> None:
    with pytest.raises(errors.Usage) as caught:
        parse(url)
    said = f"{caught.value} {caught.value.cause} {caught.value.hint} {caught.value.details}"
    assert why in said
    assert "s3c" not in said
    assert caught.value.__cause__ is None
