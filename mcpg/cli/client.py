"""
The HTTP client: the one module that imports httpx. Plain dicts in and out; every failure is one of mcpg/errors.py.

`Api.item`, `Api.items`, `Api.send` and `Api.raw` are one request each, `Api.stream` one that is answered by events. `Cut`
says that a stream ended early, which is not an error yet: mcpg/cli/follow.py resumes it.
"""

from __future__ import annotations

import contextlib
import ipaddress
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote, urlsplit

# httpx imports its own command line when click is installed (our dependencies bring click in), and with it rich and
# pygments: half a second for nothing. A module that is None in sys.modules cannot be imported, and httpx then goes on.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]

import httpx  # noqa: E402  after the line above, as are the rest
import httpx_sse  # noqa: E402

from mcpg import __version__  # noqa: E402
from mcpg.cli.answers import Heard, NotAnAnswer, Text, Unbounded, parsed, release, whole  # noqa: E402
from mcpg.cli.render import without_login  # noqa: E402
from mcpg.errors import McpgError, NotSignedIn, Unavailable, Unreachable, Usage  # noqa: E402

if TYPE_CHECKING:
    from mcpg.cli.credentials import Credential

_CONNECT_S = 3.0
_ANSWER_S = 30.0
_SILENCE_S = 45.0  # a stream carries a keep-alive at least every 15 s
_ID_MAX = 100
_ELSEWHERE_MAX = 1024 * 1024  # bytes of an answer that is not a control plane's


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
    """
    One answer of events: `operation_id` from its header, then (event name, data) pairs until it ends or is cut.

    `last_id` is the id of the newest event, also of one without data: where a resumed stream goes on.
    """

    def __init__(self, response: httpx.Response, not_ours: Callable[[str], McpgError]) -> None:
        self.operation_id = response.headers.get("x-operation-id", "")
        self.last_id = ""
        self._not_ours = not_ours
        text = Text(response.headers, response.iter_raw())
        self._source = httpx_sse.EventSource(cast("httpx.Response", text))

    def events(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Raises Cut when the connection breaks, NotAnAnswer for no events; a stream that just ends stops the iteration."""
        try:
            for event in self._source.iter_sse():
                if (
                    _ID_MAX >= len(event.id) > 0
                    and event.id.isascii()
                    and event.id.isprintable()
                    and " " not in event.id
                ):
                    self.last_id = event.id  # what a header can carry, for there it is sent back
                data = parsed(event.data)  # empty for a keep-alive after an id: httpx_sse makes an event of that
                if isinstance(data, dict):
                    yield event.event, data
        except httpx.HTTPError as exc:
            raise Cut(_words(exc)) from None
        except Unbounded as exc:
            raise self._not_ours(str(exc)) from None


class Api:
    """
    A control plane at *url*. `url_source` and `cookie_source` say where those came from, for the error's words.
    `login` is the stored one; a cookie wins over it.
    """

    def __init__(
        self,
        url: str,
        *,
        url_source: str = "default",
        cookie: str = "",
        cookie_source: str = "",
        login: Credential | None = None,
        answer_s: float = _ANSWER_S,
        note: Callable[[str], None] | None = None,
    ) -> None:
        parts = _checked(url, url_source)
        self._base = url.rstrip("/")
        self.url = without_login(self._base)  # as it is shown
        self._note = note  # is told, once, that the two versions differ
        self._url_source = url_source
        self._is_local = _is_loopback(parts.hostname or "")
        self._credential, self._sign_in = "no credential", ""
        headers = {"user-agent": f"mcpg-ctl/{__version__}", "accept-encoding": "gzip"}
        if cookie:
            self._credential = f"the session cookie from {cookie_source}"
            headers["cookie"] = f"mcpg_sid={plain(cookie, self._credential)}"
        elif login is not None:
            if parts.scheme != "https" and not self._is_local:
                raise _overheard(url, login)
            self._credential, self._sign_in = login.words, login.hint
            headers |= login.headers
        self._whole_s = 2 * answer_s  # for an answer that drips
        self._http = httpx.Client(
            headers=headers,
            timeout=httpx.Timeout(answer_s, connect=min(_CONNECT_S, answer_s)),
            trust_env=not self._is_local,  # a proxy for the outside cannot reach this machine's loopback
            verify=parts.scheme == "https",  # loading certificates costs 60 ms, and plain HTTP has no use for them
            event_hooks={"response": [self._compare]},
        )

    def close(self) -> None:
        self._http.close()

    def item(self, *segments: str, **query: str) -> dict[str, Any]:
        """The object at the path. Raises RemoteError for a problem, Unreachable when nothing of ours answers."""
        return self.send("GET", *segments, body=None, **query)

    def items(self, *segments: str, **query: str) -> list[dict[str, Any]]:
        """The array of objects at the path; raises as `item`."""
        response, said = self._ask("GET", segments, query)
        found = parsed(said)
        if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
            raise self._not_ours(response)
        return found

    def send(self, method: str, *segments: str, body: dict[str, Any] | None = None, **query: str) -> dict[str, Any]:
        """One request that is answered by an object; raises as `item`."""
        response, said = self._ask(method, segments, query, body)
        found = parsed(said)
        if not isinstance(found, dict):
            raise self._not_ours(response)
        return found

    def raw(self, *segments: str) -> bytes:
        """The very bytes of a JSON answer; raises as `item`."""
        response, said = self._ask("GET", segments, {})
        if "json" not in response.headers.get("content-type", "") or parsed(said) is None:
            raise self._not_ours(response)
        return said

    @contextlib.contextmanager
    def arriving(self, *segments: str, silence_s: float) -> Iterator[tuple[Mapping[str, str], Iterator[bytes]]]:
        """The headers, and the bytes as they come, for `doctor`, which looks at how an answer arrives. Raises as `item`."""
        try:
            with self._http.stream("GET", self._base + path(*segments), timeout=silence_s) as response:
                if response.status_code >= 300:
                    raise self._refusal(response, self._body(response))
                yield response.headers, response.iter_raw()
        except httpx.HTTPError as exc:
            raise self._unreachable(exc) from None

    def _ask(
        self, method: str, segments: tuple[str, ...], query: dict[str, str], body: dict[str, Any] | None = None
    ) -> tuple[httpx.Response, bytes]:
        try:
            url = self._base + path(*segments)
            with self._http.stream(method, url, params=query or None, json=body) as response:
                said = self._body(response)
        except httpx.HTTPError as exc:
            raise self._unreachable(exc) from None
        if response.status_code >= 300:
            raise self._refusal(response, said)
        return response, said

    def _body(self, response: httpx.Response) -> bytes:
        packing = response.headers.get("content-encoding", "")
        try:
            return whole(response.iter_raw(), packing, end=time.monotonic() + self._whole_s)
        except Unbounded as exc:
            raise self._not_ours(response, str(exc)) from None

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
            self._base + path(*segments),
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
                said = b""
                with contextlib.suppress(httpx.HTTPError):
                    said = self._body(response)
                raise self._refusal(response, said)
            if "text/event-stream" not in response.headers.get("content-type", ""):
                raise self._not_ours(response)
            yield Stream(response, lambda why: self._not_ours(response, why))
        finally:
            response.close()

    def _refusal(self, response: httpx.Response, said: bytes) -> McpgError:
        """The error that a problem body says; anything else did not come from a control plane."""
        problem = parsed(said)
        if not isinstance(problem, dict) or not isinstance(problem.get("code"), str):
            if response.status_code != 401:
                return self._not_ours(response)
            problem = {"code": NotSignedIn.code, "title": f"{self.url} does not know you"}  # a proxy's word for it
        cause, hint = str(problem.get("detail") or ""), str(problem.get("hint") or "")
        if response.status_code == 401:
            cause = f"{cause} (sent: {self._credential})".lstrip()
            hint = self._sign_in or hint or "mcpg-ctl login --issuer URL"
        details = problem.get("details")
        details = details if isinstance(details, dict) else {}
        if response.status_code == 404 and details.get("route"):
            return self._no_such_route(response, str(details["route"]))
        return RemoteError(
            str(problem.get("title") or problem["code"]),
            code=problem["code"],
            cause=cause,
            hint=hint,
            request_id=str(problem.get("request_id") or response.headers.get("x-request-id", "")),
            details=details,
        )

    def _no_such_route(self, response: httpx.Response, route: str) -> McpgError:
        theirs = response.headers.get("mcpg-version", "of an unknown version")[:40]
        is_older = (release(theirs) or _OURS) < _OURS
        age = f" is older than mcpg-ctl {__version__} and" if is_older else ""
        ways = f"update the control plane at {self.url}, or use the mcpg-ctl of its version"
        return McpgError(
            f"this control plane ({theirs}){age} does not know this",
            cause=f"it has no route {route}",
            hint=ways if is_older else f"is {self.url} ({self._from()}) the URL of its API?",
        )

    def _compare(self, response: httpx.Response) -> None:
        """Tells, once a run, that the control plane is another release: what it says may then surprise."""
        Heard.url = self.url
        theirs = response.headers.get("mcpg-version", "")
        other = release(theirs)
        if self._note is None or other is None or other == _OURS:
            return
        age = "older" if other < _OURS else "newer"
        self._note(f"the control plane at {self.url} is {theirs}, {age} than this mcpg-ctl {__version__}")
        self._note = None

    def _unreachable(self, exc: httpx.HTTPError) -> Unreachable:
        if isinstance(exc, httpx.ReadTimeout | httpx.PoolTimeout | httpx.WriteTimeout):
            what = f"the control plane at {self.url} does not answer"
        else:
            what = f"no control plane answers at {self.url}"
        return Unreachable(what, cause=f"{_words(exc)} (the URL is from {self._from()})", hint=self._way_on())

    def _not_ours(self, response: httpx.Response, why: str = "") -> Unreachable:
        """*why* says what no second try would change."""
        kind = response.headers.get("content-type", "no content type").partition(";")[0]
        server = response.headers.get("server", "")
        said = f"{response.status_code} with {kind}" + (f" from {server}" if server else "")
        if response.has_redirect_location:
            said += f", redirecting to {response.headers['location']}"
        said += f": {why}" if why else ""
        return (NotAnAnswer if why else Unreachable)(
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


_OURS = release(__version__) or (0, 0)


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
        raise Usage(f"{flag} {without_login(url)} is not an http or https URL", hint="--cp-url http://127.0.0.1:7843")
    return parts


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def plain(value: str, what: str) -> str:
    """*value* when it can stand in a header; the message never repeats it, it may be a secret."""
    if not value.isascii() or not value.isprintable() or set(value) & set(' ;,"\\'):
        raise Usage(f"{what} cannot be sent", cause="it holds characters that a header cannot carry")
    return value


def idempotency_key(value: str) -> str:
    """*value* when it can be an Idempotency-Key. Raises Usage."""
    if len(value) > 200:
        raise Usage("--idempotency-key is too long", cause="at most 200 characters", hint="--idempotency-key KEY")
    return plain(value, "--idempotency-key")


def is_guarded(url: str) -> bool:
    """Whether a secret may be sent there: over TLS, or without leaving this machine."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return False
    return bool(host) and (parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(host)))


def _overheard(url: str, login: Credential) -> Usage:
    return Usage(
        f"the login stored in {login.path} is not sent to {without_login(url)}",
        cause="over plain http everybody on the way could read it",
        hint="--cp-url https://…      without the login: mcpg-ctl logout, or another --state-dir",
    )


def fetch(method: str, url: str, *, form: dict[str, str] | None = None, seconds: float) -> tuple[int, Any]:
    """
    One request to somebody who is not a control plane: the status, and the JSON of the answer or None.

    A redirect is an answer like any other: what is sent is meant for this address alone. Raises Unavailable when there
    is no whole answer within *seconds*.
    """
    end = time.monotonic() + seconds
    parts = urlsplit(url)
    try:
        with (
            httpx.Client(
                headers={
                    "user-agent": f"mcpg-ctl/{__version__}",
                    "accept": "application/json",
                    "accept-encoding": "gzip",
                },
                timeout=httpx.Timeout(seconds, connect=min(_CONNECT_S, seconds)),
                trust_env=not _is_loopback(parts.hostname or ""),
                verify=parts.scheme == "https",
            ) as http,
            http.stream(method, url, data=form) as response,
        ):
            packing = response.headers.get("content-encoding", "")
            said = whole(response.iter_raw(), packing, end=end, most=_ELSEWHERE_MAX)
            return response.status_code, parsed(said)
    except Unbounded:
        why = "its answer does not end"
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        why = _words(exc)
    raise Unavailable(f"no answer from {url}", cause=why, hint="is it the right address, and is the network there?")


def _words(exc: Exception) -> str:
    """What happened, in words a person knows; the operating system's number is dropped."""
    text = str(exc).rpartition("] ")[2] or type(exc).__name__
    return text[:1].lower() + text[1:]
