"""
The HTTP client: the one module that imports httpx. Plain dicts in and out; every failure is one of mcpg/errors.py.

`Api.item` and `Api.items` are one request each, `Api.stream` one that is answered by events. `Cut` says that a stream
ended early, which is not an error yet: mcpg/cli/follow.py resumes it.
"""

from __future__ import annotations

import contextlib
import ipaddress
import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlsplit

# httpx imports its own command line when click is installed (our dependencies bring click in), and with it rich and
# pygments: half a second for nothing. A module that is None in sys.modules cannot be imported, and httpx then goes on.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]

import httpx  # noqa: E402  after the line above, as are the rest
import httpx_sse  # noqa: E402

from mcpg import __version__  # noqa: E402
from mcpg.errors import McpgError, Unreachable, Usage  # noqa: E402

_CONNECT_S = 3.0
_ANSWER_S = 30.0
_SILENCE_S = 45.0  # a stream carries a keep-alive at least every 15 s


class Cut(Exception):
    """The stream ended before its final event."""


class RemoteError(McpgError):
    """What the server said in a problem body; its code decides the exit code."""

    def __init__(
        self, what: str, *, code: str, request_id: str, cause: str, hint: str, details: dict[str, Any]
    ) -> None:
        super().__init__(what, cause=cause, hint=hint)
        self.details = details
        self.code = code
        self.request_id = request_id


class Stream:
    """One answer of events: `operation_id` from its header, then (event name, data) pairs until it ends or is cut."""

    def __init__(self, response: httpx.Response) -> None:
        self.operation_id = response.headers.get("x-operation-id", "")
        self._source = httpx_sse.EventSource(response)

    def events(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Raises Cut when the connection breaks; a stream that just ends stops the iteration."""
        try:
            for event in self._source.iter_sse():
                data = _json(event.data)  # empty for a keep-alive after an id: httpx_sse makes an event of that
                if isinstance(data, dict):
                    yield event.event, data
        except httpx.HTTPError as exc:
            raise Cut(_words(exc)) from None


class Api:
    """A control plane at *url*. `url_source` and `cookie_source` say where those came from, for the error's words."""

    def __init__(
        self,
        url: str,
        *,
        url_source: str = "default",
        cookie: str = "",
        cookie_source: str = "",
        answer_s: float = _ANSWER_S,
    ) -> None:
        parts = _checked(url, url_source)
        self.url = url.rstrip("/")
        self._url_source = url_source
        self._is_local = _is_loopback(parts.hostname or "")
        self._credential = f"the session cookie from {cookie_source}" if cookie else "no credential"
        headers = {"user-agent": f"mcpg-ctl/{__version__}"}
        if cookie:
            headers["cookie"] = f"mcpg_sid={_plain(cookie, f'the session cookie from {cookie_source}')}"
        self._http = httpx.Client(
            headers=headers,
            timeout=httpx.Timeout(answer_s, connect=min(_CONNECT_S, answer_s)),
            trust_env=not self._is_local,  # a proxy for the outside cannot reach this machine's loopback
            verify=parts.scheme == "https",  # loading certificates costs 60 ms, and plain HTTP has no use for them
        )

    def close(self) -> None:
        self._http.close()

    def item(self, *segments: str, **query: str) -> dict[str, Any]:
        """The object at the path. Raises RemoteError for a problem, Unreachable when nothing of ours answers."""
        response, found = self._get(segments, query)
        if not isinstance(found, dict):
            raise self._not_ours(response)
        return found

    def items(self, *segments: str, **query: str) -> list[dict[str, Any]]:
        """The array of objects at the path; raises as `item`."""
        response, found = self._get(segments, query)
        if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
            raise self._not_ours(response)
        return found

    def _get(self, segments: tuple[str, ...], query: dict[str, str]) -> tuple[httpx.Response, Any]:
        try:
            response = self._http.get(self.url + path(*segments), params=query or None)
        except httpx.HTTPError as exc:
            raise self._unreachable(exc) from None
        if response.status_code >= 300:
            raise self._refusal(response)
        try:
            return response, response.json()
        except ValueError:
            raise self._not_ours(response) from None

    @contextlib.contextmanager
    def stream(
        self, method: str, *segments: str, body: dict[str, Any] | None = None, headers: dict[str, str] | None = None
    ) -> Iterator[Stream]:
        """
        Opens a stream of events. Raises RemoteError or Unreachable for a refusal, Cut when the connection breaks before
        the answer: then nobody knows whether the request arrived, and only the same Idempotency-Key makes it safe to
        send it again.
        """
        request = self._http.build_request(
            method,
            self.url + path(*segments),
            json=body,
            headers={"accept": "text/event-stream", "cache-control": "no-store", **(headers or {})},
            timeout=httpx.Timeout(_SILENCE_S, connect=_CONNECT_S),
        )
        try:
            response = self._http.send(request, stream=True)
        except (httpx.ConnectError, httpx.ConnectTimeout) as exc:
            raise self._unreachable(exc) from None
        except httpx.HTTPError as exc:
            raise Cut(_words(exc)) from None
        try:
            if response.status_code >= 300:
                with contextlib.suppress(httpx.HTTPError):
                    response.read()
                raise self._refusal(response)
            if "text/event-stream" not in response.headers.get("content-type", ""):
                raise self._not_ours(response)
            yield Stream(response)
        finally:
            response.close()

    def _refusal(self, response: httpx.Response) -> McpgError:
        """The error that a problem body says; anything else did not come from a control plane."""
        problem = _json(response.text) if response.is_closed else None
        if not isinstance(problem, dict) or not isinstance(problem.get("code"), str):
            return self._not_ours(response)
        cause = str(problem.get("detail") or "")
        if response.status_code == 401:
            cause = f"{cause} ({self._credential} was sent)".lstrip()
        details = problem.get("details")
        return RemoteError(
            str(problem.get("title") or problem["code"]),
            code=problem["code"],
            cause=cause,
            hint=str(problem.get("hint") or ""),
            request_id=str(problem.get("request_id") or response.headers.get("x-request-id", "")),
            details=details if isinstance(details, dict) else {},
        )

    def _unreachable(self, exc: httpx.HTTPError) -> Unreachable:
        if isinstance(exc, httpx.ReadTimeout | httpx.PoolTimeout | httpx.WriteTimeout):
            what = f"the control plane at {self.url} does not answer"
        else:
            what = f"no control plane answers at {self.url}"
        return Unreachable(what, cause=f"{_words(exc)} (the URL is from {self._from()})", hint=self._way_on())

    def _not_ours(self, response: httpx.Response) -> Unreachable:
        kind = response.headers.get("content-type", "no content type").partition(";")[0]
        server = response.headers.get("server", "")
        said = f"{response.status_code} with {kind}" + (f" from {server}" if server else "")
        if response.has_redirect_location:
            said += f", redirecting to {response.headers['location']}"
        return Unreachable(
            f"what answers at {self.url} is not a control plane",
            cause=f"it said {said} (the URL is from {self._from()})",
            hint="--cp-url URL or MCPG_CP_URL; the control plane of this machine: mcpg-ctl status",
        )

    def _from(self) -> str:
        return "the default" if self._url_source == "default" else self._url_source

    def _way_on(self) -> str:
        if self._is_local:
            return "start one: mcpg-ctl quickstart      without a browser: mcpg-ctl serve"
        return "--cp-url URL or MCPG_CP_URL"


def path(*segments: str) -> str:
    """The segments as a path, each percent-encoded whole, so that no value can leave its place."""
    quoted = (quote(each, safe="") for each in segments)
    return "".join(f"/{each.replace('.', '%2E')}" if each in (".", "..") else f"/{each}" for each in quoted)


def _checked(url: str, source: str) -> Any:
    flag = source if source != "default" else "--cp-url"
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        httpx.URL(url)
    except (ValueError, httpx.InvalidURL):
        usable = False
    if not usable or parts.query or parts.fragment:
        raise Usage(f"{flag} {url} is not an http or https URL", hint="--cp-url http://127.0.0.1:7843")
    return parts


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _plain(value: str, what: str) -> str:
    """*value* when it can stand in a header; the message never repeats it, it may be a secret."""
    if not value.isascii() or not value.isprintable() or set(value) & set(' ;,"\\'):
        raise Usage(f"{what} cannot be sent", cause="it holds characters that a header cannot carry")
    return value


def idempotency_key(value: str) -> str:
    """*value* when it can be an Idempotency-Key. Raises Usage."""
    if len(value) > 200:
        raise Usage("--idempotency-key is too long", cause="at most 200 characters", hint="--idempotency-key KEY")
    return _plain(value, "--idempotency-key")


def _json(text: str) -> Any:
    import json

    try:
        return json.loads(text)
    except ValueError:
        return None


def _words(exc: httpx.HTTPError) -> str:
    """What happened, in words a person knows; the operating system's number is dropped."""
    text = str(exc).rpartition("] ")[2] or type(exc).__name__
    return text[:1].lower() + text[1:]
