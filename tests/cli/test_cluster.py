"""`cluster list`, `show` and `health`: what is asked, what is shown, how old it is."""

from __future__ import annotations

from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion

from mcpg import errors

from .bodies import cluster, clusters, critical, health, masked, moves, warning
from .fake import Ctl, Fake, data, refusal


@pytest.mark.parametrize("output", ["table", "wide", "name"])
def test_the_list(acme: Ctl, fake: Fake, snapshot: SnapshotAssertion, output: str) -> None:
    """Taken of what there is; a dash where there is no limit; how old the evidence is, also of what is out of reach."""
    fake.says("GET", "/v1/clusters", data(clusters()))
    ran = acme("cluster", "list", "-o", output)
    assert (ran.code, ran.err) == (0, "")
    assert masked(ran.out) == snapshot


@pytest.mark.parametrize(("argv", "query"), [((), ""), (("--all",), "all=true")])
def test_decommissioned_ones_are_asked_for_with_all(acme: Ctl, fake: Fake, argv: tuple[str, ...], query: str) -> None:
    fake.says("GET", "/v1/clusters", data([]))
    acme("cluster", "list", *argv)
    assert [asked.query for asked in fake.asked] == [query]


@pytest.mark.parametrize(
    ("words", "path", "said"),
    [
        ("cluster list", "/v1/clusters", clusters()),
        ("cluster show us-1", "/v1/clusters/us-1", cluster("us-1", later={"a": [1.0, "é\x1b"]})),
        ("cluster health", "/v1/clusters/health", health(critical())),
    ],
)
def test_json_is_the_servers(acme: Ctl, fake: Fake, words: str, path: str, said: Any) -> None:
    fake.says("GET", path, data(said))
    ran = acme(*words.split(), "-o", "json")
    assert (ran.code, ran.err, ran.json) == (0, "", said)


def test_a_control_plane_without_clusters_says_what_to_do(acme: Ctl, fake: Fake) -> None:
    fake.says("GET", "/v1/clusters", data([]))
    outs = [acme("cluster", "list", "-o", output).out for output in ("table", "wide", "json", "name")]
    hint = "no clusters yet: mcpg-ctl cluster register --name NAME --region REGION --gateways-max N\n"
    assert outs == [hint, hint, "[]\n", ""]


def test_one_cluster_with_its_history(acme: Ctl, fake: Fake, snapshot: SnapshotAssertion) -> None:
    said = cluster("us-1", **{key: clusters()[1][key] for key in ("capacity", "reachable", "reason")}, history=moves())
    fake.says("GET", "/v1/clusters/us-1", data(said))
    ran = acme("cluster", "show", "us-1")
    assert (ran.code, ran.err, masked(ran.out)) == (0, "", snapshot)


def test_the_fleet_at_one_look(acme: Ctl, fake: Fake, snapshot: SnapshotAssertion) -> None:
    fake.says("GET", "/v1/clusters/health", data(health(critical(), warning())))
    ran = acme("cluster", "health")
    assert (ran.code, ran.err, ran.out) == (0, "", snapshot)


def test_a_fleet_without_worries_says_so(acme: Ctl, fake: Fake) -> None:
    fake.says("GET", "/v1/clusters/health", data(health()))
    assert acme("cluster", "health").out.endswith("\n\nnothing needs attention\n")


def test_health_is_a_report_unless_its_exit_status_is_wanted(acme: Ctl, fake: Fake) -> None:
    fake.says("GET", "/v1/clusters/health", data(health(critical())), data(health(critical())), data(health(warning())))
    codes = [acme("cluster", "health", *argv).code for argv in ((), ("--exit-status",), ("--exit-status",))]
    assert codes == [0, 1, 0]


@pytest.mark.parametrize("missing", ["capacity", "last_seen_at", "reachable", "region", "id", "created_at"])
def test_a_cluster_of_another_version_may_lack_a_field(acme: Ctl, fake: Fake, missing: str) -> None:
    said = {key: value for key, value in cluster("us-1").items() if key != missing}
    fake.says("GET", "/v1/clusters", data([said]))
    fake.says("GET", "/v1/clusters/us-1", data(said))
    lines = (("list",), ("list", "-o", "wide"), ("show", "us-1"))
    assert [acme("cluster", *argv).code for argv in lines] == [0, 0, 0]


def test_a_prefix_that_fits_several_is_refused_in_the_servers_words(acme: Ctl, fake: Fake) -> None:
    several = errors.Usage("7f2e1a is not one cluster", cause="it begins 7f2e1a90-1 (us-1) and 7f2e1a91-2 (us-2)")
    fake.says("GET", "/v1/clusters/7f2e1a", refusal(several))
    ran = acme("cluster", "show", "7f2e1a")
    assert (ran.code, ran.out, ran.err.splitlines()[:2]) == (
        2,
        "",
        ["error: 7f2e1a is not one cluster", "cause: it begins 7f2e1a90-1 (us-1) and 7f2e1a91-2 (us-2)"],
    )


@pytest.mark.parametrize("words", ["cluster show", "cluster drain", "cluster decommission"])
def test_a_cluster_must_be_named(acme: Ctl, fake: Fake, words: str) -> None:
    ran = acme(*words.split())
    assert (ran.code, fake.asked, ran.err.splitlines()[0]) == (2, [], f"error: {words} needs --id")
