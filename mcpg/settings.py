"""
Every setting, once: its flag, environment name, unit, meaning and default.

Four trees: `Server` (serve, quickstart), `Agent` (gateway), `Login` and `Client` (every command that talks to the API). They are
read at the edges only, in mcpg/cli and mcpg/server.py, and passed down as values. Flags win over the environment, the
environment over the stored context, that over the default. A field's environment names are its validation aliases, the
first being the documented one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal

from pydantic import AliasChoices, Field, SkipValidation, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from mcpg.engine import sizes

DAY_S: Final = 86_400  # the longest that a setting may make anybody wait
DEFAULT_CP_URL: Final = "http://127.0.0.1:7843"


def default_state_dir() -> Path:
    """`~/.mcpg`, or `./mcpg-state` where there is no home."""
    try:
        return Path.home() / ".mcpg"
    except RuntimeError:
        return Path("mcpg-state")


def from_env(*names: str) -> AliasChoices:
    return AliasChoices(*names)


def cp_env(name: str) -> AliasChoices:
    """A server setting is `MCPG_CP_X`, or `MCPG_CONTROL_PLANE_X` where the short one is not set."""
    return AliasChoices(f"MCPG_CP_{name}", f"MCPG_CONTROL_PLANE_{name}")


class _Tree(BaseSettings):
    model_config = SettingsConfigDict(populate_by_name=True, extra="ignore", case_sensitive=True, env_ignore_empty=True)

    state_dir: Path = Field(
        default_factory=default_state_dir,
        validation_alias=from_env("MCPG_STATE_DIR"),
        description="directory of the database, credentials and gateways",
    )
    json_logs: bool = Field(
        False,
        validation_alias=from_env("MCPG_JSON_LOGS", "MCPG_CP_JSON_LOGS"),
        description="logs as JSON lines on stderr",
    )

    @field_validator("state_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings

    @classmethod
    def resolve(cls, flags: dict[str, Any]) -> _Tree:
        """The settings, given the flags a person typed (by field name). Raises pydantic.ValidationError."""
        return cls(**flags)


class Server(_Tree):
    bind_http: str = Field("127.0.0.1:7843", validation_alias=cp_env("BIND_HTTP"), description="HOST:PORT of the API")
    bind_grpc: str = Field("127.0.0.1:7844", validation_alias=cp_env("BIND_GRPC"), description="HOST:PORT for gateways")
    db_url: str = Field(
        "",
        validation_alias=cp_env("DB_URL"),
        description="postgres://USER:PASSWORD@HOST:PORT/DATABASE, or sqlite://PATH?mode=rwc; empty: <state-dir>/cp-state.db",
    )
    auth_mode: Literal["none"] = Field(
        "none", validation_alias=cp_env("AUTH_MODE"), description="none: no credentials, loopback only"
    )
    insecure_no_auth: bool = Field(
        False,
        validation_alias=cp_env("INSECURE_NO_AUTH"),
        description="allow auth mode none beyond loopback: everybody who can connect is an admin",
    )
    external_url: str = Field(
        "",
        validation_alias=cp_env("EXTERNAL_URL"),
        description="URL under which clients reach the API; empty: from bind",
    )
    provisioner: Literal["local", "none", "noop"] = Field(
        "local",
        validation_alias=cp_env("PROVISIONER"),
        description="what runs gateways: processes on this machine, nothing (create answers 503), or a no-op for benchmarks",
    )
    gateway_bin: str = Field(
        "",
        validation_alias=cp_env("GATEWAY_BIN"),
        description="path of the gateway binary; empty: chosen at the start: `mcpg` on PATH, then the project cache, then our"
        " own agent",
    )
    gateways_dir: str = Field(
        "",
        validation_alias=cp_env("GATEWAYS_DIR"),
        description="directory of local gateways' files; replicas on one machine share it; empty: <state-dir>/gateways",
    )
    external_grpc_url: str = Field(
        "",
        validation_alias=cp_env("EXTERNAL_GRPC_URL"),
        description="URL under which gateways reach the gRPC port, e.g. of a load balancer; empty: from bind",
    )
    local_gateways_max: int = Field(
        20,
        ge=0,
        le=1_000_000,
        validation_alias=cp_env("LOCAL_GATEWAYS_MAX"),
        description="places in the cluster `local`",
    )
    size_classes: str = Field(
        sizes.DEFAULT,
        validation_alias=cp_env("SIZE_CLASSES"),
        description="what one replica of each size takes of its cluster; accounted, not enforced by the local provisioner",
    )
    apply_timeout_s: float = Field(
        30.0,
        gt=0,
        le=DAY_S,
        validation_alias=cp_env("APPLY_TIMEOUT_S"),
        description="seconds for starting a gateway's processes",
    )
    confirm_timeout_s: float = Field(
        60.0,
        gt=0,
        le=DAY_S,
        validation_alias=cp_env("CONFIRM_TIMEOUT_S"),
        description="seconds for enrolment, config acknowledgement and a first answer",
    )
    recovery_soak_s: float = Field(
        60.0,
        gt=0,
        le=DAY_S,
        validation_alias=cp_env("RECOVERY_SOAK_S"),
        description="seconds that a gateway which was brought back must stay up to count as recovered",
    )
    recovery_pause_s: float = Field(
        60.0,
        gt=0,
        le=DAY_S,
        validation_alias=cp_env("RECOVERY_PAUSE_S"),
        description="longest pause, in seconds, before a gateway that ended again is brought back",
    )
    stop_grace_s: float = Field(
        5.0,
        gt=0,
        le=DAY_S,
        validation_alias=cp_env("STOP_GRACE_S"),
        description="seconds from SIGTERM to SIGKILL of a gateway",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", validation_alias=cp_env("LOG_LEVEL"), description="lowest level that is logged"
    )

    @field_validator("size_classes")
    @classmethod
    def _sizes(cls, value: str) -> str:
        sizes.parse(value)
        return value


class Agent(_Tree):
    enrollment_url: str = Field(
        "", validation_alias=from_env("MCPG_ENROLLMENT_URL"), description="enrolment URL; needed for the first run only"
    )
    cp_grpc: str = Field(
        "http://127.0.0.1:7844", validation_alias=from_env("MCPG_CP_GRPC"), description="gRPC URL of the control plane"
    )
    instance_uid: str = Field(
        "", validation_alias=from_env("MCPG_INSTANCE_UID"), description="name to enrol under; empty: <hostname>-<8 hex>"
    )
    config: str = Field(
        "", validation_alias=from_env("MCPG_CONFIG"), description="local gateway config, used until a push"
    )
    exec: str = Field(
        "",
        validation_alias=from_env("MCPG_GATEWAY_EXEC"),
        description="gateway program (`mcpg`, or its path) to run and supervise as the data plane; empty: ours",
    )
    drain_timeout_s: float = Field(
        10.0,
        ge=0,
        validation_alias=from_env("MCPG_DRAIN_TIMEOUT_S"),
        description="seconds from SIGTERM for running calls to finish",
    )


class Login(_Tree):
    issuer: str = Field("", validation_alias=from_env("MCPG_FED_ISSUER"), description="OpenID issuer to sign in at")
    client_id: str = Field(
        "mcpg-ctl",
        validation_alias=from_env("MCPG_FED_CLIENT_ID"),
        description="name this programme is registered under at the issuer",
    )


class Client(_Tree):
    """What a context may give as well, below the environment: see mcpg/cli/contexts.py."""

    context: str = Field(
        "",
        validation_alias=from_env("MCPG_CONTEXT"),
        description="stored context: the default of the options that are not given; none: without",
    )
    cp_url: str = Field(
        DEFAULT_CP_URL, validation_alias=from_env("MCPG_CP_URL"), description="URL of the control plane"
    )
    session_cookie: str = Field(
        "", validation_alias=from_env("MCPG_SESSION_COOKIE"), description="session, sent as cookie mcpg_sid"
    )
    session_cookie_file: SkipValidation[str] = Field(  # a file's name need not be UTF-8
        "",
        validation_alias=from_env("MCPG_SESSION_COOKIE_FILE"),
        description="file with the session, - for stdin; keeps it out of the process list",
    )
    org: str = Field("", validation_alias=from_env("MCPG_ORG"), description="organisation slug")
    workspace: str = Field("", validation_alias=from_env("MCPG_WORKSPACE"), description="workspace slug")
    env: str = Field("", validation_alias=from_env("MCPG_ENV"), description="environment slug")
    output: Literal["table", "wide", "name", "json", "yaml", "jsonl"] = Field(
        "table", validation_alias=from_env("MCPG_OUTPUT"), description="how data is printed on stdout"
    )

    @field_validator("context", "cp_url", "session_cookie", "org", "workspace", "env")
    @classmethod
    def _utf8(cls, value: str) -> str:
        if any(0xD800 <= ord(char) <= 0xDFFF for char in value):
            raise ValueError("it is not UTF-8")  # such bytes of argv and environ reach Python as lone surrogates
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, _Context(settings_cls)


class _Context(PydanticBaseSettingsSource):
    """The stored context that is in force. Raises errors.McpgError when it cannot be had."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        raise NotImplementedError  # the whole source is one call

    def __call__(self) -> dict[str, Any]:
        from mcpg.cli import contexts  # noqa: PLC0415  the server has no use for it

        given = self.current_state  # by flags and environment, under the documented environment names
        state_dir = Path(given.get("MCPG_STATE_DIR", default_state_dir())).expanduser().absolute()
        context = contexts.read(state_dir).in_force(given.get("MCPG_CONTEXT"))
        if context is None:
            return {}
        layer = {"context": context.name, **context.layer(given.get("MCPG_CP_URL"))}
        return {f"MCPG_{field.upper()}": value for field, value in layer.items()}
