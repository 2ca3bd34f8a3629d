"""Requests that nobody sends by mistake: each is answered with what is wrong, and none is an error of ours."""

from __future__ import annotations

import asyncio
import logging
from urllib.parse import urlsplit

import pytest

from tests.bounds import BOUND_S
from tests.conftest import Plane

ORG = "/v1/orgs/default"
PLAIN = {
    "/v1/meta",
    "/v1/orgs",
    ORG,
    f"{ORG}/workspaces",
    f"{ORG}/workspaces/default/environments",
    f"{ORG}/instances",
    f"{ORG}/operations",
    "/v1/operations",
    "/v1/instances",
    "/v1/clusters",
    "/v1/clusters/health",
    "/v1/clusters/local",
    "/v1/events",
    "/v1/machines",
    Plane.tokens,
}


@pytest.mark.parametrize("path", sorted(PLAIN))
async def test_a_query_parameter_that_nobody_knows_is_refused_everywhere(plane: Plane, path: str) -> None:
    answer = await plane.client.get(path, params={"bogus": "1"})
    assert (answer.status_code, answer.json()["title"]) == (400, "unknown query parameter 'bogus'")


@pytest.mark.parametrize("path", [f"{ORG}/operations", "/v1/operations"])
async def test_a_limit_of_thousands_of_digits_is_out_of_range(plane: Plane, path: str) -> None:
    answer = await plane.client.get(path, params={"limit": "1" * 5000})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_argument")
    assert "is not a number from 1 to 1000" in answer.json()["title"]


@pytest.mark.parametrize("version", ["9" * 26, "9" * 5000, "-1", "0", "x"])
async def test_a_config_version_that_cannot_be_is_not_there(plane: Plane, version: str) -> None:
    await plane.publish("edge-1")
    answer = await plane.client.get(f"{plane.gateways}/edge-1/config-versions/{version}")
    assert (answer.status_code, answer.json()["title"]) == (404, f"edge-1 has no config version {version[:60]}")


async def test_a_config_with_a_number_too_large_to_be_written_is_refused(plane: Plane) -> None:
    body = {"name": "edge-1", "config_toml": "a: 0x" + "f" * 5000}
    answer = await plane.client.post(f"{plane.gateways}/validate", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "unparseable_config")


@pytest.mark.parametrize(
    "first",
    [b"GET \xff\xfe HTTP/1.1", b"CONNECT a:1 HTTP/1.1", b"GET http://[evil/ HTTP/1.1", b"\xff\xfe x", b"GARBAGE"],
)
async def test_a_request_line_that_cannot_be_read_is_answered(
    plane: Plane, first: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    where = urlsplit(plane.url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    writer.write(first + b"\r\nHost: 127.0.0.1\r\n\r\n")
    async with asyncio.timeout(BOUND_S):
        said = await reader.read()
    writer.close()
    assert said.startswith(b"HTTP/1.1 400 ")
    assert b"application/problem+json" in said
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.mark.parametrize("sent", ["provision%40", "provision@", "%70rovision%40"])
async def test_a_segment_is_read_as_it_was_meant(plane: Plane, sent: str) -> None:
    digest = (await plane.client.get("/v1/machines/provision")).json()["hash"]
    answer = await plane.client.get(f"/v1/machines/definitions/{sent}{digest[:12]}")
    assert (answer.status_code, answer.json()["definition"]) == (200, f"provision@{digest[:12]}")


NAMES = {"edge%201%40x": "edge 1@x", "a%2Fb": "a/b", "%C3%A9dge": "édge", "50%2525": "50%25"}


@pytest.mark.parametrize("sent", NAMES)
@pytest.mark.parametrize(
    "route", ["/v1/instances", "/v1/operations", "/v1/clusters", "/v1/machines", f"{ORG}/instances"]
)
async def test_what_is_not_there_is_told_by_the_name_that_was_meant(plane: Plane, route: str, sent: str) -> None:
    answer = await plane.client.get(f"{route}/{sent}")
    assert answer.status_code in (400, 404)
    assert (NAMES[sent] in answer.json()["title"], "%20" in answer.text) == (True, False)


@pytest.mark.parametrize("sent", ["a%00", "%FF", "%ED%A0%80"])
async def test_a_segment_that_is_no_text_is_refused(plane: Plane, sent: str) -> None:
    answer = await plane.client.get(f"/v1/instances/{sent}")
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_argument")
    assert answer.json()["title"] == f"'{sent}' in the path cannot be read"
