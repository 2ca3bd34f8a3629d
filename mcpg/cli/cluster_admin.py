"""`mcpg-ctl cluster register`, `decommission`, `drain` and `undrain`: what changes the pool."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Iterable
from typing import Any

from mcpg.cli import inputs, kube, render, resolve
from mcpg.cli.client import Api, RemoteError
from mcpg.cli.cluster import Cluster, gateway, title
from mcpg.cli.parse import Line
from mcpg.cli.resolve import Values
from mcpg.cli.talk import tell
from mcpg.errors import Usage

_ADMIN = ("v1", "admin", "clusters")
_PLACE = {"--org": "org", "--workspace": "workspace", "--env": "environment"}


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
        ref = _only(gone["orphaned"])
        ways = f"take {'it' if ref else 'one'} back: mcpg-ctl instance adopt {ref or 'NAME'}"
        ways += f"      or end it: mcpg-ctl instance reap {ref or 'NAME'}"
        tell(f"hint:  {render.clean(ways)}", as_logs=values.json_logs, event="orphaned")
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


def _only(held: list[dict[str, Any]]) -> str:
    """What names the one gateway there is, as a word of a command; "" for several."""
    if len(held) != 1:
        return ""
    return shlex.quote(str(held[0].get("name") or held[0].get("instance_uid", "")))


def _delete(held: list[dict[str, Any]]) -> str:
    """The command that deletes the one gateway in the way, wherever it is; of several, what to fill in."""
    if not _only(held):
        return "delete them: mcpg-ctl provision delete --name NAME"
    where = [f"{flag} {shlex.quote(str(held[0].get(field, '')))}" for flag, field in _PLACE.items()]
    name = "--name" if held[0].get("name") else "--instance-uid"
    return f"delete it: mcpg-ctl provision delete {' '.join(where)} {name} {_only(held)}"


def _in_use(exc: RemoteError, ref: str) -> RemoteError:
    """Drain protection: which gateways still run there, and the two ways on."""
    held = [each for each in exc.details.get("gateways") or [] if isinstance(each, dict)]
    state = exc.details.get("state") or "its state"
    allowed = ", ".join(map(str, exc.details.get("allowed") or []))
    return RemoteError(
        f"{exc.what}: {', '.join(map(gateway, held))}",
        code=exc.code,
        request_id=exc.request_id,
        cause=f"decommission from {state} needs a cluster without gateways (allowed now: {allowed})",
        hint=f"{_delete(held)}      or orphan {'it' if _only(held) else 'them'}:"
        f" mcpg-ctl cluster decommission --id {shlex.quote(ref)} --force",
        details=exc.details,
    )


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
