"""`machine list|show`: the declared tables, as a page of 80 columns, as a diagram, as data."""

from __future__ import annotations

from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion

from mcpg import errors

from .bodies import machine, machines
from .fake import Ctl, Fake, data, refusal


@pytest.mark.parametrize(
    ("argv", "path", "said"),
    [("list", "/v1/machines", machines()), ("show cluster", "/v1/machines/cluster", machine())],
    ids=["list", "show"],
)
def test_for_people_and_as_data(
    acme: Ctl, fake: Fake, snapshot: SnapshotAssertion, argv: str, path: str, said: Any
) -> None:
    fake.says("GET", path, data(said))
    ran = acme("machine", *argv.split())
    assert (ran.code, ran.err, ran.out) == (0, "", snapshot(name="table"))
    assert max(map(len, ran.out.splitlines())) <= 80
    assert acme("machine", *argv.split(), "-o", "name").out == snapshot(name="name")
    assert acme("machine", *argv.split(), "-o", "json").json == said


def test_the_diagram_alone(acme: Ctl, fake: Fake) -> None:
    fake.says("GET", "/v1/machines/cluster", data(machine()))
    assert acme("machine", "show", "cluster", "-o", "mermaid") == (0, machine()["mermaid"], "")


def test_a_machine_that_is_not_there(acme: Ctl, fake: Fake) -> None:
    fake.says("GET", "/v1/machines/x", refusal(errors.NotFound("no machine x", cause="machines: cluster")))
    ran = acme("machine", "show", "x")
    assert (ran.code, ran.err.splitlines()[:2]) == (3, ["error: no machine x", "cause: machines: cluster"])


@pytest.mark.parametrize("missing", ["states", "moves", "mermaid", "title", "final"])
def test_a_machine_of_another_version_may_lack_a_field(acme: Ctl, fake: Fake, missing: str) -> None:
    fake.says("GET", "/v1/machines/x", data({key: value for key, value in machine().items() if key != missing}))
    assert [
        acme("machine", "show", "x", *argv).code
        for argv in (
            (),
            (
                "-o",
                "mermaid",
            ),
        )
    ] == [0, 0]
