"""What local.py answers and raises, in the words and shapes that the engine and people are told."""

from __future__ import annotations

import socket

from mcpg.engine.ports import Order, Placed
from mcpg.errors import GatewayExited, TemporaryError
from mcpg.host.loopback import reserve
from mcpg.host.processes import Watch
from mcpg.host.words import redact
from mcpg.provisioners.replica import Replica


def reserved(preferred: int) -> socket.socket:
    try:
        return reserve(preferred)
    except OSError as error:
        raise TemporaryError("no port is free on 127.0.0.1", cause=str(error)) from error


def placed(order: Order, replica: Replica, watch: Watch, *, started: bool) -> Placed:
    port = replica.port
    names = ("127.0.0.1", f"{order.name}.localhost") if replica.number == 1 else ("127.0.0.1",)
    endpoints = tuple(f"http://{name}:{port}/mcp" for name in names)
    return Placed(replica.number, watch.identity.pid, port, endpoints, started)


def reason_of(code: int | None) -> str:
    if code is None:
        return "ended; its exit code is not known, because an earlier control plane had started it"
    return f"exit code {code}" if code >= 0 else f"signal {-code}"


def died(order: Order, number: int, reason: str, said: str) -> GatewayExited:
    which = order.name if order.replicas == 1 else f"{order.name}, replica {number},"
    return GatewayExited(f"gateway {which} did not stay up: {reason}", cause=redact(said) or "it said nothing")


def summary(hows: list[str]) -> str:
    """ "2 processes ended (SIGTERM)"; each way to end is counted on its own."""
    counts = {how: hows.count(how) for how in sorted(set(hows), reverse=True)}
    parts = [f"{n} process{'es' if n > 1 else ''} ended ({how})" for how, n in counts.items()]
    return ", ".join(parts) or "nothing was running"
