"""Orgs, workspaces, environments and enrolment tokens as bodies of the wire."""

from __future__ import annotations

from mcpg.present.base import Row, when
from mcpg.store.clock import to_datetime
from mcpg.wire.fleet import Environment, Org, TokenStatus, Workspace


def org(row: Row) -> Org:
    return Org(**{**row, "created_at": when(row["created_at"])})


def workspace(row: Row) -> Workspace:
    return Workspace(**{**row, "created_at": when(row["created_at"])})


def environment(row: Row) -> Environment:
    return Environment(**{**row, "created_at": when(row["created_at"])})


def token(row: Row, now: int) -> TokenStatus:
    """One row of `tenancy.tokens`, as it is at *now*."""
    return TokenStatus(
        id=row["id"], state=_token_state(row, now), use_count=row["use_count"], max_uses=row["max_uses"],
        expires_at=to_datetime(row["expires_at"]), created_at=to_datetime(row["created_at"]), issuer=row["issuer"],
        expected_instance_uid=row["expected_uid"] or "", instance_uid=row["instance_uid"] or "",
    )  # fmt: skip


def _token_state(row: Row, now: int) -> str:
    if row["revoked_at"] is not None:
        return "revoked"
    if row["use_count"] >= row["max_uses"]:
        return "used" if row["max_uses"] == 1 else "exhausted"
    return "expired" if row["expires_at"] <= now else "minted"
