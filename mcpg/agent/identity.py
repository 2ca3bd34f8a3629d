"""
Who this gateway is to its control plane: how it enrols, what it was given, and when that is no good any more.

Called by mcpg/agent/gateway.py. What is stored, and where: credentials.py.
"""

from __future__ import annotations

import asyncio
import base64
import os
import platform
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import grpc

from mcpg import __version__, errors
from mcpg.agent import credentials, enrolment_url
from mcpg.agent.credentials import Credentials
from mcpg.agent.dataplane_config import Listener
from mcpg.agent.enrolment_url import NEXT
from mcpg.agent.events import Tell, told
from mcpg.agent.gateway_link import Ended, Link, Timing, pause, unless
from mcpg.agent.pb import agent_pb2 as pb
from mcpg.settings import Agent

MIN_REFRESH_S: Final = 300.0
# The control plane has read the request and says no: asking again does not change it. All else may pass.
FINAL: Final = frozenset(
    {
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.INVALID_ARGUMENT,
    }
)


class Identity:
    """`creds` is what the control plane gave, None before the first enrolment and after it was refused."""

    def __init__(self, settings: Agent, *, tell: Tell, timing: Timing) -> None:
        self._state_dir = settings.state_dir
        self._tell = tell
        self._timing = timing
        self._token = enrolment_url.parse(settings.enrollment_url) if settings.enrollment_url else None
        self.creds = credentials.read(self._state_dir)
        if self.creds is None and self._token is None:
            raise errors.Usage(
                "this gateway is not enrolled",
                cause=f"there are no credentials in {self._state_dir} and no enrolment URL was given",
                hint=f"{NEXT} (or --enrollment-url URL, or MCPG_ENROLLMENT_URL)",
            )
        self.uid = credentials.instance_uid(self._state_dir, wanted=settings.instance_uid, hostname=_hostname())
        if self.creds is not None and self._token is not None and not self._must_register():
            self._say_enrolled(self.creds)

    async def ensure(self, link: Link, listener: Listener, stop: asyncio.Event) -> Credentials | None:
        """
        Credentials to open a session with; None where *stop* came first. Unreachable is tried again for ever.

        Raises errors.Forbidden where the control plane refuses to enrol us and there are no others to try.
        """
        if self._token is not None and self._must_register():
            await self._enrol(self._token, link, listener, stop)
        return self.creds

    def _say_enrolled(self, creds: Credentials) -> None:
        """A person who gave a URL expects it to be used."""
        registered_at = (credentials.read_json(credentials.enrolment_path(self._state_dir)) or {}).get("registered_at")
        known = {"instance_uid": self.uid, "since": registered_at} if registered_at else {"since": creds.issued_at}
        note = "the enrolment URL is not used now, and kept for when these credentials are refused"
        hint = "for another gateway on this machine: --state-dir PATH"
        self._tell("already_enrolled", {"instance_id": creds.instance_id, **known, "note": note, "hint": hint})

    def _must_register(self) -> bool:
        if self.creds is None or self.creds.expires_at is None:
            return True
        window = max(MIN_REFRESH_S, 3 * self._timing.heartbeat_s)
        return self.creds.expires_at - time.time() <= window

    async def _enrol(self, token: str, link: Link, listener: Listener, stop: asyncio.Event) -> None:
        """Registers until it works, is refused for good, or *stop*; once only where there are credentials to try."""
        backoff = self._timing.backoff()
        request = _request(token, self.uid, listener)
        while not stop.is_set():
            answer = await unless(stop, link.register(request))
            if answer is None:
                return
            if isinstance(answer, pb.RegisterResponse):
                self._store(answer, link.endpoint)
                return
            if self.creds is None and answer.code in FINAL:
                self._tell("register_refused", told(answer))
                raise _refused(answer, link.endpoint)
            delay = backoff.closed(ok=False)
            self._tell("register_failed", {**told(answer), "retry_in_s": round(delay, 1)})
            if self.creds is not None:
                return
            await pause(delay, stop)

    def _store(self, answer: pb.RegisterResponse, endpoint: str) -> None:
        self.creds = Credentials(
            instance_id=answer.instance_id,
            instance_jwt=answer.instance_jwt,
            cp_endpoint=answer.cp_endpoint,
            issued_at=credentials.now_rfc3339(),
            client_cert_pem=answer.client_cert_pem,
            client_key_pem=answer.client_key_pem,
            ca_chain_pem=answer.ca_chain_pem,
            payload_dek_b64=base64.b64encode(answer.payload_dek).decode(),
            payload_dek_version=answer.payload_dek_version,
        )
        self._write(credentials.write, self.creds)
        self.reached(endpoint)
        self._write(credentials.record_registration, self.uid, self.creds.issued_at)
        self._tell("registered", {"instance_id": answer.instance_id, "instance_uid": self.uid, "endpoint": endpoint})

    def reached(self, endpoint: str) -> None:
        """Remembers where the control plane was."""
        self._write(credentials.write_pairing, endpoint)

    def rotate(self, rotation: pb.CredentialRotation) -> None:
        """Takes the control plane's new credentials; they count from the next session on."""
        if not rotation.instance_jwt or self.creds is None:
            return
        given: dict[str, Any] = {
            "client_cert_pem": rotation.client_cert_pem,
            "client_key_pem": rotation.client_key_pem,
            "payload_dek_b64": base64.b64encode(rotation.payload_dek).decode(),
            "payload_dek_version": rotation.payload_dek_version,
        }
        given = {name: value for name, value in given.items() if value}
        issued_at = credentials.now_rfc3339()
        self.creds = replace(self.creds, instance_jwt=rotation.instance_jwt, issued_at=issued_at, **given)
        self._write(credentials.write, self.creds)
        self._tell("credentials_rotated", {"instance_id": self.creds.instance_id})

    def reject(self) -> None:
        """The control plane refuses these credentials. Without a URL they are kept: nothing could replace them."""
        if self._token is None:
            self._tell("credentials_rejected", {"kept": True, "hint": f"to enrol anew: {NEXT}"})
            return
        self._write(credentials.drop)
        self.creds = None
        self._tell("credentials_rejected", {"kept": False})

    def _write(self, writer: Callable[..., None], *what: Any) -> None:
        """A state directory that can no longer be written (a full disk) is no reason to stop serving."""
        try:
            writer(self._state_dir, *what)
        except errors.StateDir as error:
            self._tell("state_not_written", {"reason": str(error), "cause": error.cause})


def _request(token: str, uid: str, at: Listener) -> pb.RegisterRequest:
    reachable = [pb.AddressableEndpoint(scheme="http", host=at.host, port=at.port, path_prefix=at.mcp_path)]
    return pb.RegisterRequest(
        bootstrap_token=token,
        instance_uid=uid,
        version=__version__,
        labels={"agent": "mcpg-ctl"},
        capabilities=["control_plane_client"],
        addressable_endpoints=[] if at.host in {"0.0.0.0", "::"} else reachable,
        host=pb.HostInfo(
            os=sys.platform, arch=platform.machine(), hostname=_hostname(), kernel_version=platform.release()
        ),
    )


def _refused(answer: Ended, endpoint: str) -> errors.Forbidden:
    fields = told(answer)
    return errors.Forbidden(
        f"the control plane at {endpoint} refuses to enrol this gateway",
        cause=f"{fields['reason']} ({fields['code']})",
        hint=f"mint a new enrolment URL: {NEXT}",
    )


def _hostname() -> str:
    return socket.gethostname() or "localhost"


def rss_bytes() -> int:
    """Resident memory of this process, from /proc; 0 where there is none."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
