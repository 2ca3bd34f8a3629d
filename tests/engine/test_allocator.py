"""Placement: pure, deterministic, and every refusal names every cluster with its reason."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from mcpg.engine.allocator import Refusal, Room, Wish, place, why_not


def room(
    name: str, used: int = 0, top: int = 10, region: str = "eu", tier: str = "shared", state: str = "registered"
) -> Room:
    return Room(f"id-{name}", name, region, tier, state, top, used)


def test_the_fullest_that_fits_is_chosen() -> None:
    assert place([room("a", 3), room("b", 8), room("c", 10)], Wish(2)) == room("b", 8)


def test_equals_are_decided_by_name() -> None:
    assert place([room("b", 3), room("a", 3)], Wish(1)) == room("a", 3)


def test_a_refusal_names_every_cluster_and_its_reason() -> None:
    rooms = [room("full", 10), room("us", region="us"), room("iso", tier="dedicated"), room("old", state="draining")]
    refused = place(rooms, Wish(1, "eu", "shared"))
    assert str(refused) == ("full: gateways 10/10 · iso: tier dedicated ≠ shared · old: draining · us: region us ≠ eu")


def test_without_clusters_it_says_so() -> None:
    assert str(place([], Wish(1))) == "no cluster is registered"


def test_region_and_tier_match_exactly_or_not_at_all() -> None:
    assert why_not(room("a", region="eu-1"), Wish(1, "eu")) == "region eu-1 ≠ eu"


ROOMS = st.lists(
    st.builds(
        room,
        st.text("abcdef", min_size=1, max_size=3),
        st.integers(0, 12),
        st.integers(0, 12),
        st.sampled_from(["eu", "us"]),
        st.sampled_from(["shared", "dedicated"]),
        st.sampled_from(["registered", "draining", "decommissioned"]),
    ),
    max_size=8,
    unique_by=lambda r: r.name,
)
WISHES = st.builds(Wish, st.integers(1, 5), st.sampled_from(["", "eu", "us"]), st.sampled_from(["", "shared"]))


@given(ROOMS, WISHES, st.randoms())
def test_the_order_of_the_clusters_never_matters(rooms: list[Room], wish: Wish, rnd: random.Random) -> None:
    shuffled = rooms[:]
    rnd.shuffle(shuffled)
    assert place(rooms, wish) == place(shuffled, wish)


@given(ROOMS, WISHES)
def test_what_is_chosen_fits_and_a_refusal_is_right_about_all(rooms: list[Room], wish: Wish) -> None:
    chosen = place(rooms, wish)
    if isinstance(chosen, Refusal):
        assert all(why_not(r, wish) for r in rooms)
        assert [n for n, _ in chosen.reasons] == sorted(r.name for r in rooms)
    else:
        assert chosen.gateways_used + wish.places <= chosen.gateways_max
        assert (chosen.region, chosen.state) == (wish.region or chosen.region, "registered")
