"""The base of every wire type, and time as the wire has it."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, PlainSerializer, WithJsonSchema


def rfc3339(at: datetime) -> str:
    """UTC with milliseconds and Z, e.g. 2026-11-22T10:21:07.114Z."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


_TEXT = {"type": "string", "format": "date-time", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$"}
Time = Annotated[
    datetime, PlainSerializer(rfc3339, return_type=str, when_used="json-unless-none"), WithJsonSchema(_TEXT)
]


class Body(BaseModel):
    """An answer: unknown keys of a newer server are ignored, so old clients keep working."""

    model_config = ConfigDict(extra="ignore", frozen=True)
