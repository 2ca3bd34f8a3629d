"""`mcpg-ctl cluster register`, `decommission`, `drain` and `undrain`: what changes the pool."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable
from typing import Any

from mcpg.cli import inputs, kube, render, resolve
from mcpg.cli.client import Api, RemoteError
from mcpg.cli.cluster import Cluster, gateway, title
from mcpg.cli.parse import Line
from mcpg.cli.resolve import Values
from mcpg.cli.talk import tell
from mcpg.errors import Refused, Usage

_ADMIN = ("v1", "admin", "clusters")


def register(line: Line) -> int:
    """Adds a cluster to the pool."""
    values = resolve.values(line)
    inputs.check_slug("--name", values.name)
    fields = ("name", "region", "gateways_max", "isolation_tier", "provisioner")
    body: dict[str, Any] = {field: getattr(values, field) for field in fields}
    totals = ("cpu_millicores_total", "memory_bytes_total")
    body |= {field: getattr(values, field) for field in totals if getattr(values, field) is not None}
    if values.provisioner == "kubernetes":
        if not values.kubeconfig:
            raise Usage(
                "a kubernetes cluster needs its kubeconfig",
                cause="not set: --kubeconfig",
                hint=f"--kubeconfig FILE --kube-context NAME, e.g. {line.prog} cluster register … --kubeconfig ~/.kube/config",
            )
        body |= kube.read(values.kubeconfig, values.kube_context)
    elif values.kubeconfig or values.kube_context:
        flag = "--kubeconfig" if values.kubeconfig else "--kube-context"
        raise Usage(f"{flag} is for kubernetes clusters", cause="this one is local", hint="--provisioner kubernetes")
    with contextlib.closing(inputs.connect(values)) as api:
        return _print(values, api.send("POST", *_ADMIN, body=body))


def drain(line: Line) -> int:
    """Places nothing new there; what runs, runs on."""
    return _move(line, "drain")


def undrain(line: Line) -> int:
    """Takes a draining cluster back into the pool."""
    return _move(line, "undrain")


def decommission(line: Line) -> int:
    """Takes a cluster out of the pool. With gateways on it only with --force, which orphans them and asks first."""
    values = resolve.values(line)
    ref, forced = values.id, {"force": "true"} if values.force else {}
    with contextlib.closing(inputs.connect(values)) as api:
        try:
            if values.force or values.dry_run:
                would = api.send("DELETE", *_ADMIN, ref, body=None, dry_run="true", **forced)
                if values.dry_run:
                    return _print(values, would, is_real=False)
                _confirm(api, values, line, would)
                ref = str(would.get("id") or ref)  # what was read and confirmed, whoever has the name by now
            gone = api.send("DELETE", *_ADMIN, ref, body=None, **forced)
        except RemoteError as exc:
            if exc.code == "cluster_in_use":
                raise _in_use(exc, ref) from None
            raise
    code = _print(values, gone)
    if gone.get("orphaned"):
        ways = "take one back: mcpg-ctl instance adopt UID      or end it: mcpg-ctl instance reap UID"
        tell(f"hint:  {ways}", as_logs=values.json_logs, event="orphaned")
    return code


def _move(line: Line, move: str) -> int:
    values = resolve.values(line)
    with contextlib.closing(inputs.connect(values)) as api:
        body = {"reason": values.reason} if values.reason else {}
        return _print(values, api.send("POST", *_ADMIN, values.id, move, body=body))


def _confirm(api: Api, values: Values, line: Line, would: Cluster) -> None:
    """The gateways that would lose their cluster are listed before its name is asked for."""
    name, orphaned = str(would.get("name", "")), would.get("orphaned") or []
    if orphaned:
        sys.stderr.write("".join(f"{row}\n" for row in ("this would orphan:", *_orphans(orphaned))))
    inputs.confirm(line, values, f"decommission {name}", name=name, where=api.url, typed=True)


def _in_use(exc: RemoteError, ref: str) -> Refused:
    """Drain protection: which gateways still run there, and the two ways on."""
    held = [each for each in exc.details.get("gateways") or [] if isinstance(each, dict)]
    state = exc.details.get("state") or "its state"
    allowed = ", ".join(map(str, exc.details.get("allowed") or []))
    error = Refused(
        f"{exc.what}: {', '.join(map(gateway, held))}",
        cause=f"decommission from {state} needs a cluster without gateways (allowed now: {allowed})",
        hint=f"delete them: mcpg-ctl provision delete --instance-uid UID"
        f"      or orphan them: mcpg-ctl cluster decommission --id {ref} --force",
        **exc.details,
    )
    error.code = exc.code
    return error


def _print(values: Values, cluster: Cluster, *, is_real: bool = True) -> int:
    orphaned = cluster.get("orphaned") or []
    head = title(cluster) if is_real else f"would be: {title(cluster)}"
    more = ["orphaned:", *_orphans(orphaned)] if orphaned else []
    render.emit(
        values.output,
        cluster,
        table=lambda: [head, *more, *([] if is_real else ["nothing was written"])],
        names=[str(cluster.get("name", ""))],
    )
    return 0


def _orphans(found: list[dict[str, Any]]) -> Iterable[str]:
    return render.columns([(gateway(each), str(each.get("instance_uid", ""))) for each in found], indent=2)
