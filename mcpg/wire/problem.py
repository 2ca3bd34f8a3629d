"""The one error body (RFC 9457 problem details), and the way back from an error to it."""

from typing import Any

from mcpg.errors import MAPPING, McpgError
from mcpg.wire.base import Body


class Problem(Body):
    """
    `type` is always about:blank; `code` is the stable machine word of mcpg/errors.py. `title` says what, `detail` why,
    `hint` the next command. `error` and `message` repeat code and title for clients of the older envelope.
    """

    type: str = "about:blank"
    status: int
    code: str
    title: str
    detail: str = ""
    hint: str = ""
    request_id: str = ""
    details: dict[str, Any] = {}
    error: str = ""
    message: str = ""


def problem(exc: McpgError, *, request_id: str = "", status: int | None = None) -> Problem:
    """The body for a deliberate error."""
    return Problem(
        status=status or MAPPING[exc.code].http,
        code=exc.code,
        title=exc.what,
        detail=exc.cause,
        hint=exc.hint,
        request_id=request_id,
        details=exc.details,
        error=exc.code,
        message=exc.what,
    )
