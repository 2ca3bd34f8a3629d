"""
The one page, `/`: gateways, operations and clusters as they are, and `/enroll/v1`, which says what an enrolment URL is for.

Rendered from the same presentation as the API's JSON. No script, no inline style, no third-party request: the content
security policy forbids them.
"""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from sanic import Blueprint, HTTPResponse, Request

from mcpg import present
from mcpg.errors import NotFound
from mcpg.present import Live
from mcpg.store.database import Database
from mcpg.ui import words
from mcpg.wire.base import rfc3339
from mcpg.wire.fleet import Meta

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'none'; base-uri 'none';"
        " frame-ancestors 'none'"
    ),
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cache-control": "no-store",
}
SHOWN = 20


def blueprint(db: Database, live: Live, meta: Meta) -> Blueprint:
    """The pages of one control plane."""
    pages = Environment(
        loader=PackageLoader("mcpg.ui"), autoescape=select_autoescape(default=True), undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    pages.globals.update(glyph=words.glyph, tone=words.tone, age=words.age, duration=words.duration, rfc3339=rfc3339)
    static = {
        name: (files("mcpg.ui").joinpath("static", name).read_text("utf-8"), kind)
        for name, kind in (("style.css", "text/css; charset=utf-8"), ("icon.svg", "image/svg+xml"))
    }
    bp = Blueprint("ui")

    @bp.get("/")
    async def index(request: Request) -> HTTPResponse:
        instances = await present.instances(db, live, None)
        operations = await present.recent_operations(db, SHOWN)
        clusters = await present.clusters(db, live)
        html = pages.get_template("index.html").render(
            now=datetime.now(UTC), meta=meta, instances=instances, operations=operations, clusters=clusters, shown=SHOWN
        )
        return HTTPResponse(html, content_type="text/html; charset=utf-8", headers=HEADERS)

    @bp.get("/enroll/v1")
    async def enrol(request: Request) -> HTTPResponse:
        html = pages.get_template("enroll.html").render(meta=meta)
        return HTTPResponse(html, content_type="text/html; charset=utf-8", headers=HEADERS)

    @bp.get("/static/<name>")
    async def asset(request: Request, name: str) -> HTTPResponse:
        if name not in static:
            raise NotFound(f"no file {name[:60]}")
        body, kind = static[name]
        return HTTPResponse(body, content_type=kind, headers={"cache-control": "max-age=300"})

    return bp
