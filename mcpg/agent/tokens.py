"""
Instance tokens: the JWT an agent shows on every call. HS256 over a key that lives in the database's keyring.

A gateway reads nothing of it but `exp` (contract/agent.md, section 5), and asks for a new one when less than
max(300 s, 3 heartbeats) are left; so it lives long and is rotated at half its life.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OctKey

from mcpg.errors import NotSignedIn
from mcpg.store import reads, writes
from mcpg.store.clock import Clock
from mcpg.store.database import Database

LIFE_S = 30 * 86400
ROTATE_BELOW_S = LIFE_S // 2
_ALGORITHMS = ["HS256"]


@dataclass(frozen=True, slots=True)
class Claims:
    """Who shows the token: agent id, the generation of its credentials, and until when (seconds since the epoch)."""

    agent_id: str
    generation: int
    expires_at: int


class InstanceTokens:
    def __init__(self, key: str, issuer: str, clock: Clock) -> None:
        self._key = OctKey.import_key(key)
        self._issuer = issuer
        self._clock = clock

    @classmethod
    async def load(cls, db: Database, clock: Clock, issuer: str = "mcpg-control-plane") -> InstanceTokens:
        """The key of this database; made at its first start."""
        await db.writer.execute(writes.put_key("instance-jwt", secrets.token_hex(32), clock()))
        key = await reads.find_key(db, "instance-jwt")
        assert key is not None  # noqa: S101 - put a line above
        return cls(key, issuer, clock)

    def issue(self, agent_id: str, generation: int) -> tuple[str, int]:
        """A token and its expiry, in seconds since the epoch."""
        now = self._clock() // 1_000_000
        expires = now + LIFE_S
        claims = {"iss": self._issuer, "sub": agent_id, "gen": generation, "iat": now, "exp": expires}
        return jwt.encode({"alg": "HS256", "typ": "JWT"}, claims, self._key, algorithms=_ALGORITHMS), expires

    def read(self, token: str) -> Claims:
        """Raises NotSignedIn for anything that is not a living token of ours."""
        try:
            claims = jwt.decode(token, self._key, algorithms=_ALGORITHMS).claims
            found = Claims(str(claims["sub"]), int(claims["gen"]), int(claims["exp"]))
            issuer = claims["iss"]
        except (JoseError, ValueError, KeyError, TypeError) as exc:
            raise NotSignedIn("this instance token is not ours", cause=type(exc).__name__) from exc
        if issuer != self._issuer or found.expires_at <= self._clock() // 1_000_000:
            raise NotSignedIn("this instance token has expired", hint="enrol again with the enrolment URL")
        return found
