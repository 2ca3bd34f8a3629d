"""Durations, ages, sizes, columns, and text that a terminal must not obey."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpg.cli import render
from mcpg.cli.client import path
from mcpg.cli.helptext import wrapped

NOW = 1_795_342_870.0  # 2026-11-22T10:21:10Z


@pytest.mark.parametrize(
    ("ms", "expected"),
    [
        (None, ""),
        (0, "0ms"),
        (99.4, "99ms"),
        (100, "0.1s"),
        (2574, "2.6s"),
        (9949, "9.9s"),
        (9951, "10s"),
        (59_499, "59s"),
        (59_500, "1m0s"),
        (79_300, "1m19s"),
        (3_599_400, "59m59s"),
        (3_600_000, "1h0m"),
        (7_500_000, "2h5m"),
    ],
)
def test_took(ms: float | None, expected: str) -> None:
    assert render.took(ms) == expected


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        ("2026-11-22T10:21:10Z", "now"),
        ("2026-11-22T10:21:11Z", "now"),
        ("2026-11-22T10:21:09.500Z", "now"),
        ("2026-11-22T10:21:09Z", "1s ago"),
        ("2026-11-22T10:21:06.500Z", "3s ago"),
        ("2026-11-22T10:20:11Z", "59s ago"),
        ("2026-11-22T10:20:10Z", "1m ago"),
        ("2026-11-22T11:18:10+01:00", "3m ago"),
        ("2026-11-22T08:00:00Z", "2h ago"),
        ("2026-11-17T10:21:10Z", "5d ago"),
        ("yesterday", "?"),
        (None, "?"),
    ],
)
def test_ago(at: str | None, expected: str) -> None:
    assert render.ago(at, NOW) == expected


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1258291, "1.2 MiB"), (2**42, "4096.0 GiB")],
)
def test_size(count: int, expected: str) -> None:
    assert render.size(count) == expected


@given(st.text())
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    shown = render.clean(text)
    shown.encode()
    obeyed = [*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x61C]
    assert set(map(ord, shown)) & set(obeyed) == set()


@given(st.text(st.characters(categories=["L", "N", "P", "S"])))
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert render.clean(text) == text


@given(st.lists(st.lists(st.text("ab ", max_size=9), max_size=4), max_size=5), st.integers(5, 30))
def test_columns_never_exceed_the_width_and_lose_nothing_without_one(rows: list[list[str]], width: int) -> None:
    full, cut = render.columns(rows), render.columns(rows, width=width)
    assert all(len(line) <= width for line in cut)
    assert [line.split() for line in full] == [" ".join(row).split() for row in rows]
    assert cut == full or max(map(len, full)) > width


LONG = [["NAME", "WHERE", "STATE", "ERROR"], ["edge-1", "default/default/default", "failed", "word " * 20]]


def test_the_widest_columns_give_way_and_the_first_never_does() -> None:
    assert render.columns(LONG, width=60) == [
        "NAME    WHERE                  STATE   ERROR",
        "edge-1  default/default/defa…  failed  word word word word…",
    ]


def test_a_last_column_without_room_goes_below_the_others() -> None:
    rows = [("#", "AT", "STATE", "EVENT", ""), ("1", "+0.000", "requested", "request", "create edge-1 and wait")]
    assert render.columns(rows, width=44, wrap=True) == [
        "#  AT      STATE      EVENT",
        "1  +0.000  requested  request",
        "           create edge-1 and wait",
    ]


def test_a_wrapped_last_column_loses_nothing() -> None:
    assert render.columns(LONG, width=70, indent=1, wrap=True) == [
        " NAME    WHERE                    STATE   ERROR",
        " edge-1  default/default/default  failed  word word word word word",
        "                                          word word word word word",
        "                                          word word word word word",
        "                                          word word word word word",
    ]


@given(st.text("ab ", max_size=60), st.integers(5, 20))
def test_wrapped_lines_fit_and_lose_no_word(text: str, width: int) -> None:
    lines = wrapped(text, width)
    assert " ".join(lines).split() == text.split()
    assert all(len(line) <= width or " " not in line for line in lines)


SEGMENTS = st.one_of(st.sampled_from([".", "..", "/", "%2e"]), st.text(min_size=1).filter(str.isprintable))


@given(st.lists(SEGMENTS, min_size=1, max_size=4))
def test_a_path_has_as_many_segments_as_were_given(segments: list[str]) -> None:
    """And none that a server or a proxy would resolve away."""
    made = path(*segments)
    assert (made.count("/"), set(made.split("/")) & {".", ".."}) == (len(segments), set())
