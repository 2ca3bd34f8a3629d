"""The setting of the size classes: all four, at least 1 of each, in units that say what they are."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from mcpg.engine.sizes import DEFAULT, Size, parse
from mcpg.settings import Server


def test_the_default_doubles_with_each_class() -> None:
    assert parse(DEFAULT) == {
        "s": Size(250, 256 * 2**20), "m": Size(500, 512 * 2**20), "l": Size(1000, 2**30), "xl": Size(2000, 2**31),
    }  # fmt: skip


def test_memory_may_be_plain_bytes_and_spaces_are_allowed_between() -> None:
    assert parse("s=1m/1, m=2m/2Ki, l=3m/3Mi, xl=4m/4Gi")["s"] == Size(1, 1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "'' is not CLASS"),
        ("s=250m/256Mi", "m, l, xl is missing"),
        (DEFAULT.replace("xl=", "xxl="), "'xxl' is none of s, m, l, xl"),
        (DEFAULT + ",s=1m/1Mi", "'s' is given twice"),
        (DEFAULT.replace("250m", "0m"), "takes nothing"),
        (DEFAULT.replace("256Mi", "1025Gi"), "takes too much: at most 1000000000m and 1024Gi"),
        (DEFAULT.replace("250m", "1000000001m"), "takes too much"),
        (DEFAULT.replace("250m", "0.25"), "'s=0.25/256Mi' is not CLASS"),
        (DEFAULT.replace("256Mi", "256MB"), "is not CLASS"),
    ],
)
def test_a_wrong_setting_is_refused_with_what_is_wrong(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        Server(size_classes=text)


@pytest.mark.parametrize("name", ["apply_timeout_s", "confirm_timeout_s", "stop_grace_s"])
@pytest.mark.parametrize("value", ["inf", "1e300", "nan", "0", "86401"])
def test_a_time_is_above_nothing_and_at_most_a_day(name: str, value: str) -> None:
    with pytest.raises(ValidationError):
        Server.resolve({name: value})


def test_the_places_of_this_machine_are_at_most_a_million() -> None:
    assert Server(local_gateways_max=1_000_000).local_gateways_max == 1_000_000
    with pytest.raises(ValidationError):
        Server(local_gateways_max=1_000_001)
