"""Gateways of an environment: publish, dry run, delete, config versions."""

from __future__ import annotations

from sanic import Blueprint, HTTPResponse, Request

from mcpg import present
from mcpg.api.context import DIGITS, actor, answer, gateway_name, idempotency_key, parse, scope, server, slug
from mcpg.api.stream import ladder
from mcpg.engine.core import Scope
from mcpg.engine.requests import Publish, delete, plan, publish
from mcpg.errors import NotFound
from mcpg.store import fleet, reads
from mcpg.wire.gateways import ConfigVersion, ConfigVersionText, DryRun, PublishBody

blueprint = Blueprint("gateways", url_prefix="/v1/orgs/<org>/workspaces/<ws>/environments/<env>/gateways")


def _wish(body: PublishBody) -> Publish:
    return Publish(
        gateway_name(body.name), body.replicas, body.size, body.region, body.isolation_tier, body.custom_hostname,
        body.image_tag, body.config_toml,
    )  # fmt: skip


@blueprint.post("/")
async def create(request: Request, org: str, ws: str, env: str) -> None:
    where = await scope(request, org, ws, env)
    wish = _wish(parse(request, PublishBody))
    op = await publish(server(request).engine, where, wish, actor=actor(request), key=idempotency_key(request))
    await ladder(request, op.id)


@blueprint.delete("/<uid>")
async def remove(request: Request, org: str, ws: str, env: str, uid: str) -> None:
    where = await scope(request, org, ws, env)
    op = await delete(server(request).engine, where, uid, actor=actor(request), key=idempotency_key(request))
    await ladder(request, op.id)


@blueprint.post("/validate")
async def validate(request: Request, org: str, ws: str, env: str) -> HTTPResponse:
    """The refusal a publish would give, or what it would do. Nothing is reserved."""
    where = await scope(request, org, ws, env)
    wish = _wish(parse(request, PublishBody))
    engine = server(request).engine
    found = await plan(engine, where, wish)
    cluster = await fleet.find_cluster(engine.db, found.room.id)
    return answer(
        DryRun(
            name=wish.name, action=found.action, size=found.spec["size"], replicas=found.spec["replicas"],
            gateway_version=engine.provisioner.gateway_version if engine.provisioner else "",
            config_sha256=found.config_sha256, cluster=found.room.name,
            after=present.capacity(cluster, found.change) if cluster else None,
        )
    )  # fmt: skip


async def _named(request: Request, where: Scope, name: str) -> dict[str, object]:
    row = await reads.find_live_name(server(request).db, slug(name, "name"))
    if row is None or (row["org"], row["workspace"], row["environment"]) != (
        where.org, where.workspace, where.environment,
    ):  # fmt: skip
        raise NotFound(f"no gateway {name} in {where}", hint=f"mcpg-ctl instance list --org {where.org}")
    return row


@blueprint.get("/<name>/config-versions")
async def versions(request: Request, org: str, ws: str, env: str, name: str) -> HTTPResponse:
    row = await _named(request, await scope(request, org, ws, env), name)
    found = await reads.config_versions(server(request).db, str(row["id"]))
    return answer(
        [
            ConfigVersion(version=v["version"], content_sha256=v["raw_sha256"], rendered_sha256=v["rendered_sha256"])
            for v in found
        ]
    )


@blueprint.get("/<name>/config-versions/<version>")
async def version(request: Request, org: str, ws: str, env: str, name: str, version: str) -> HTTPResponse:
    row = await _named(request, await scope(request, org, ws, env), name)
    is_number = version.isascii() and version.isdigit() and len(version) <= DIGITS
    found = await reads.find_config(server(request).db, str(row["id"]), int(version)) if is_number else None
    if found is None:
        raise NotFound(f"{name} has no config version {version[:60]}")
    return answer(ConfigVersionText(version=found["version"], raw_config=found["raw_text"]))
