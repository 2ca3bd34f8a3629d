"""
`mcpg-ctl operation resume|retry|cancel`: what an operator does to an operation; then its ladder, to its end.

What may be done when is the server's to say; here is only how it is asked for, confirmed and shown.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from mcpg.cli import history, inputs, render, resolve
from mcpg.cli.client import Api
from mcpg.cli.operate import FLEET, accepted
from mcpg.cli.operate import attach as view
from mcpg.cli.parse import Line
from mcpg.cli.resolve import Values

Operation = dict[str, Any]
_ASKED = ("resume", "retry", "cancel")


def resume(line: Line) -> int:
    """Sends what paused back to where it was. Exit 0 when the operation then ends well."""
    values = resolve.values(line)
    with contextlib.closing(inputs.connect(values)) as api:
        return _followed(api, values, _sent(api, values, values.id, "resume"))


def retry(line: Line) -> int:
    """Tries again now; what failed or was cancelled is asked for anew, as a new operation."""
    values = resolve.values(line)
    with contextlib.closing(inputs.connect(values)) as api:
        found = _sent(api, values, values.id, "retry")
        if found.get("retry_of"):
            inputs.say(values, f"operation {found.get('id')} is the retry of {found['retry_of']}", event="retried")
        return _followed(api, values, found)


def cancel(line: Line) -> int:
    """Stops an operation, after showing what is taken back and asking on a terminal. Exit 0 when it ends cancelled."""
    values = resolve.values(line)
    with contextlib.closing(inputs.connect(values)) as api:
        plan = api.item(*FLEET, values.id, "cancel-plan")
        if values.plan:
            return _print_plan(values, plan)
        operation_id = str(plan.get("operation_id") or values.id)
        name = str(plan.get("name", ""))
        what = f"cancel operation {operation_id} ({' '.join(history.of(plan, 'kind', 'name', 'now'))})"
        inputs.confirm(line, values, what, name=name, also=operation_id, where=api.url, about=_steps(plan))
        return _followed(api, values, _sent(api, values, operation_id, "cancel"), wanted="cancelled")


def _sent(api: Api, values: Values, ref: str, verb: str) -> Operation:
    body = {"reason": values.reason} if values.reason else {}
    return api.send("POST", *FLEET, ref, verb, body=body)


def _followed(api: Api, values: Values, operation: Operation, wanted: str = "") -> int:
    if not values.wait:
        return accepted(values, operation)
    return view(api, values, operation, wanted=wanted, after=_before(operation))


def _before(operation: Operation) -> int:
    """The seq of the line before the newest that a person wrote: what led there was seen before. 0 for a new operation."""
    lines = operation.get("history") or []
    asked = (
        int(line.get("seq") or 1)
        for line in reversed(lines)
        if line.get("event") in _ASKED and line.get("actor") != "engine"
    )
    return next(asked, 1) - 1


def _steps(plan: Operation) -> Iterator[str]:
    """The plan as lines: what for, then each step in the order in which it runs."""
    yield f"a cancel leads from {plan.get('now', '?')} to {plan.get('state', '?')}: {plan.get('words', '')}"
    rows = [
        (str(at), *history.of(step, "words"), f"takes back {step.get('effect', '?')}, line {step.get('from_seq', '?')}")
        for at, step in enumerate(plan.get("steps") or [], 1)
    ]
    yield from render.columns(rows, indent=2)


def _print_plan(values: Values, plan: Operation) -> int:
    head = f"operation {' '.join(history.of(plan, 'operation_id', 'kind', 'name', 'now'))}"
    render.emit(
        values.output,
        plan,
        table=lambda: [render.clean(head), *_steps(plan), "nothing was changed"],
        names=[str(step.get("undo", "")) for step in plan.get("steps") or []],
    )
    return 0
