"""Asking for a gateway: the body of POST …/gateways, and what a dry run answers."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from mcpg.wire.base import Body
from mcpg.wire.clusters import Capacity

Size = Literal["s", "m", "l", "xl"]
Word = Annotated[str, Field(max_length=255, pattern=r"^[\x20-\x7e]*$")]  # what is stored and shown as it was sent


class PublishBody(BaseModel):
    """
    Create a gateway, or update the one that has this name in this environment.

    Absent optionals keep their old value in an update. `config_toml` is the config file verbatim, YAML or TOML.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: Annotated[str, Field(max_length=1000)]
    replicas: Annotated[int, Field(strict=True, ge=1, le=100)] | None = None
    size: Size | None = None
    region: Word | None = None
    isolation_tier: Word | None = None
    custom_hostname: Word | None = None
    config_toml: str | None = None
    image_tag: Word | None = None


class DryRun(Body):
    """What a publish of the same body would do; nothing is reserved. `after` is the room of `cluster` once it is done."""

    name: str
    action: Literal["create", "update"]
    gateway_version: str
    size: Size
    replicas: int
    config_sha256: str
    cluster: str
    after: Capacity | None = None


class ConfigVersion(Body):
    """One published config of one instance; versions count from 1."""

    version: int
    content_sha256: str
    rendered_sha256: str


class ConfigVersionText(Body):
    """The file as it was sent, byte for byte."""

    version: int
    raw_config: str
