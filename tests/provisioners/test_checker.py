"""Where a config is wrong, when the gateway only says that it is; and gateways that dial where nobody is any more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mcpg.host.checker import cause_of, check
from mcpg.provisioners.local import Local

from .conftest import ROOT, Exits, answers, order

Make = Callable[..., Local]


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ("✗ x.yaml: invalid\n  failed\n  caused by: missing field `b` in YAML source string\n", "missing field `b`"),
        ("caused by: outer\n  caused by: inner \x1b[0m\n", "inner  [0m"),
        ("caused by: token ENROL-abcdefghijklmnop0123 is odd", "token ENROL-… is odd"),
        ("nothing of the kind", ""),
    ],
)
def test_the_innermost_cause_is_told(said: str, cause: str) -> None:
    assert cause_of(said).startswith(cause.partition("ENROL-")[0])
    assert "abcdefghijklmnop0123" not in cause_of(said)


@pytest.mark.peer
async def test_the_real_checker_names_the_key(real_gateway: str) -> None:
    tool = "mcp: {capabilities: {tools: [{name: a.b, description: x, input_schema: {type: object}, backnd: {}}]}}"
    assert "missing field `backend`" in await check(Path(real_gateway), tool)
    assert await check(Path(real_gateway), (ROOT / "examples/echo.yaml").read_text()) == ""


async def test_without_a_checker_there_is_nothing_to_add(tmp_path: Path) -> None:
    assert await check(tmp_path / "mcpg", "a: b") == ""


@pytest.mark.peer
async def test_a_gateway_that_dials_an_old_address_is_started_anew(
    make: Make, real_gateway: str, instance_id: str, exits: Exits
) -> None:
    """The control plane came back on another gRPC port: a gateway never learns of it, so the next apply replaces it."""
    first = make(real_gateway)
    await first.start(exits)
    (old,) = await first.apply(order(instance_id))
    await answers(first, instance_id)
    await first.stop()
    second = make(real_gateway, grpc_url="http://127.0.0.1:2")
    await second.start(exits)
    (new,) = await second.apply(order(instance_id, operation_id="op-2222222222"))
    assert (new.started, new.pid == old.pid, new.port) == (True, False, old.port)
    (same,) = await second.apply(order(instance_id, operation_id="op-3333333333"))
    assert (same.started, same.pid) == (False, new.pid)
