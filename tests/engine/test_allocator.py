"""Placement: pure, deterministic, what a look at every cluster would give; every refusal names every cluster's reason."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mcpg.engine.allocator import Need, Pool, Refusal, Room, Wish, place, why_not


def room(
    name: str, used: int = 0, top: int = 10, region: str = "eu", tier: str = "shared", state: str = "registered",
    cpu: tuple[int, int | None] = (0, None), memory: tuple[int, int | None] = (0, None), unreachable: str = "",
) -> Room:  # fmt: skip
    """`cpu` and `memory` are (used, total)."""
    return Room(f"id-{name}", name, region, tier, state, top, used, cpu[1], cpu[0], memory[1], memory[0], unreachable)


def test_the_fullest_that_fits_is_chosen() -> None:
    assert place([room("a", 3), room("b", 8), room("c", 10)], Wish(Need(2))) == room("b", 8)


def test_equals_are_decided_by_name() -> None:
    assert place([room("b", 3), room("a", 3)], Wish(Need(1))) == room("a", 3)


def test_the_scarcest_resource_decides_which_is_fullest() -> None:
    """A cluster with many places and little CPU is nearer to full than one with half its places."""
    by_cpu, by_places = room("a", 1, cpu=(15_000, 16_000)), room("b", 5)
    assert place([by_places, by_cpu], Wish(Need(1, 1000))) == by_cpu
    assert place([by_places, by_cpu], Wish(Need(1, 2000))) == by_places


def test_a_refusal_names_every_cluster_and_its_reason() -> None:
    rooms = [
        room("full", 50, 50), room("two-left", 48, 50), room("us", region="us-east-1"), room("iso", tier="dedicated"),
        room("old", state="draining"), room("k", unreachable="since 12m: no route to host"),
        room("x", cpu=(15_500, 16_000)), room("y", memory=(7 * 2**29, 2**32)),
    ]  # fmt: skip
    refused = place(rooms, Wish(Need(3, 1000, 2**30), "eu"))
    assert isinstance(refused, Refusal)
    assert dict(refused.reasons) == {
        "full": "gateways 50/50 and 3 are needed",
        "iso": "tier dedicated ≠ shared",
        "k": "unreachable since 12m: no route to host",
        "old": "draining",
        "two-left": "gateways 48/50 and 3 are needed",
        "us": "region us-east-1 ≠ eu",
        "x": "cpu 15.5/16 cores and 1 is needed",
        "y": "memory 3584/4096 MiB and 1024 is needed",
    }
    assert str(place([room("full", 50, 50)], Wish(Need(1)))) == "full: gateways 50/50"


def test_without_clusters_it_says_so() -> None:
    assert str(place([], Wish(Need(1)))) == "no cluster is registered"


def test_region_and_tier_match_exactly_or_not_at_all() -> None:
    assert why_not(room("a", region="eu-1"), Wish(Need(1), "eu")) == "region eu-1 ≠ eu"
    assert why_not(room("a", tier="dedicated"), Wish(Need(1))) == "tier dedicated ≠ shared"


def test_a_wish_for_one_cluster_is_met_there_or_nowhere() -> None:
    rooms = [room("a", 9), room("b", 0)]
    assert place(rooms, Wish(Need(1), cluster="b")) == rooms[1]
    assert str(place(rooms, Wish(Need(2), cluster="a"))) == "a: gateways 9/10 and 2 are needed · b: not a"


# ---- what a look at every cluster would give


def oracle(rooms: Sequence[Room], wish: Wish) -> Room | None:
    """Best fit, said once more and without any cleverness."""

    def scarcest(r: Room) -> float:
        pairs = [
            (r.gateways_used, r.gateways_max), (r.cpu_millicores_used, r.cpu_millicores_total),
            (r.memory_bytes_used, r.memory_bytes_total),
        ]  # fmt: skip
        return min((total - used) / total if total else 0.0 for used, total in pairs if total is not None)

    fitting = [r for r in rooms if not why_not(r, wish)]
    return min(fitting, key=lambda r: (scarcest(r), r.name, r.id), default=None)


def limited(most: int) -> st.SearchStrategy[tuple[int, int | None]]:
    return st.tuples(st.integers(0, most + 2), st.one_of(st.none(), st.integers(1, most)))


REGIONS, TIERS = st.sampled_from(["eu", "us"]), st.sampled_from(["shared", "dedicated"])
NAMES = st.text("abcdef", min_size=1, max_size=3)
ROOM = st.builds(
    room,
    NAMES,
    st.integers(0, 12),
    st.integers(0, 12),
    REGIONS,
    TIERS,
    st.sampled_from(["registered", "registered", "registered", "draining", "decommissioned"]),
    limited(8),
    limited(8),
    st.sampled_from(["", "", "", "since 1m: no"]),
)
ROOMS = st.lists(ROOM, max_size=10, unique_by=lambda r: r.name)
NEEDS = st.builds(Need, st.integers(1, 5), st.integers(0, 5), st.integers(0, 5))
WISHES = st.builds(Wish, NEEDS, st.one_of(st.just(""), REGIONS), TIERS, st.one_of(st.just(""), NAMES))


@given(ROOMS, WISHES, st.randoms())
def test_the_order_of_the_clusters_never_matters(rooms: list[Room], wish: Wish, rnd: random.Random) -> None:
    shuffled = rooms[:]
    rnd.shuffle(shuffled)
    assert place(rooms, wish) == place(shuffled, wish)


@example([room("a", 0, 1, memory=(2, 1))], Wish(Need(1)))  # beyond its memory, and no memory is asked for
@given(ROOMS, WISHES)
def test_the_choice_is_the_best_fit_of_all_and_a_refusal_is_right_about_each(rooms: list[Room], wish: Wish) -> None:
    chosen, best = place(rooms, wish), oracle(rooms, wish)
    if isinstance(chosen, Refusal):
        assert best is None
        assert chosen.reasons == tuple((r.name, why_not(r, wish)) for r in sorted(rooms, key=lambda r: r.name))
        assert all(why for _, why in chosen.reasons)
    else:
        assert chosen == best


@given(ROOMS, st.lists(st.one_of(ROOM, WISHES, NAMES), max_size=30))
def test_a_pool_that_lived_through_changes_chooses_as_one_that_did_not(
    rooms: list[Room], story: list[Room | Wish | str]
) -> None:
    """A room is put anew, a wish is met and its room taken, a name's cluster goes away: what is left is all that counts."""
    pool, known = Pool(rooms), {r.id: r for r in rooms}
    for event in story:
        match event:
            case Room():
                pool.put(event)
                known[event.id] = event
            case Wish():
                chosen = pool.place(event)
                assert chosen == oracle(list(known.values()), event)
                if chosen is not None:
                    taken = chosen.holding(event.need)
                    pool.put(taken)
                    known[taken.id] = taken
            case str():
                pool.drop(f"id-{event}")
                known.pop(f"id-{event}", None)


@given(ROOMS, st.lists(WISHES, max_size=40))
def test_what_is_placed_never_holds_more_than_there_is(rooms: list[Room], wishes: list[Wish]) -> None:
    pool = Pool(rooms)
    for wish in wishes:
        if (chosen := pool.place(wish)) is not None:
            after = chosen.holding(wish.need)
            assert after.gateways_used <= after.gateways_max
            if wish.need.cpu_millicores and after.cpu_millicores_total is not None:
                assert after.cpu_millicores_used <= after.cpu_millicores_total
            if wish.need.memory_bytes and after.memory_bytes_total is not None:
                assert after.memory_bytes_used <= after.memory_bytes_total
            pool.put(after)


@pytest.mark.parametrize(
    ("held", "more"), [(Need(0), Need(3, 3, 3)), (Need(3, 3, 3), Need(0)), (Need(5, 1, 3), Need(0, 2, 0))]
)
def test_what_is_missing_is_counted_for_each_kind(held: Need, more: Need) -> None:
    assert Need(3, 3, 3).beyond(held) == more
