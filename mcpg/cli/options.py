"""
The options that several commands share, as plain data. The commands themselves: mcpg/cli/commands.

Those that are settings repeat mcpg/settings.py, which costs 400 ms to import; tests/cli/test_table.py proves that
names, environment, defaults, choices and words are the same, and that both resolve alike.
"""

from mcpg.cli.table import Option

PROG = "mcpg-ctl"


def _cp(name: str) -> tuple[str, ...]:
    return f"MCPG_CP_{name}", f"MCPG_CONTROL_PLANE_{name}"


GLOBAL = (
    Option(
        "--state-dir",
        "directory of the database, credentials and gateways",
        kind="path",
        metavar="PATH",
        env=("MCPG_STATE_DIR",),
        default="~/.mcpg",
    ),
    Option(
        "--json-logs",
        "logs as JSON lines on stderr",
        kind="flag",
        env=("MCPG_JSON_LOGS", "MCPG_CP_JSON_LOGS"),
        default=False,
    ),
)

SERVER = (
    Option("--bind-http", "HOST:PORT of the API", metavar="HOST:PORT", env=_cp("BIND_HTTP"), default="127.0.0.1:7843"),
    Option(
        "--bind-grpc", "HOST:PORT for gateways", metavar="HOST:PORT", env=_cp("BIND_GRPC"), default="127.0.0.1:7844"
    ),
    Option(
        "--db-url",
        "postgres://USER:PASSWORD@HOST:PORT/DATABASE, or sqlite://PATH?mode=rwc; empty: <state-dir>/cp-state.db",
        metavar="URL",
        env=_cp("DB_URL"),
    ),
    Option(
        "--auth-mode",
        "none: no credentials, loopback only",
        env=_cp("AUTH_MODE"),
        default="none",
        choices=("none",),
    ),
    Option(
        "--insecure-no-auth",
        "allow auth mode none beyond loopback: everybody who can connect is an admin",
        kind="flag",
        env=_cp("INSECURE_NO_AUTH"),
        default=False,
    ),
    Option(
        "--external-url",
        "URL under which clients reach the API; empty: from bind",
        metavar="URL",
        env=_cp("EXTERNAL_URL"),
    ),
    Option(
        "--provisioner",
        "what runs gateways: processes on this machine, nothing (create answers 503), or a no-op for benchmarks",
        env=_cp("PROVISIONER"),
        default="local",
        choices=("local", "none", "noop"),
    ),
    Option(
        "--gateway-bin",
        "path of the gateway binary; empty: chosen at the start: `mcpg` on PATH, then the project cache, then our own agent",
        metavar="PATH",
        env=_cp("GATEWAY_BIN"),
    ),
    Option(
        "--gateways-dir",
        "directory of local gateways' files; replicas on one machine share it; empty: <state-dir>/gateways",
        metavar="PATH",
        env=_cp("GATEWAYS_DIR"),
    ),
    Option(
        "--external-grpc-url",
        "URL under which gateways reach the gRPC port, e.g. of a load balancer; empty: from bind",
        metavar="URL",
        env=_cp("EXTERNAL_GRPC_URL"),
    ),
    Option(
        "--local-gateways-max",
        "places in the cluster `local`",
        kind="int",
        metavar="N",
        env=_cp("LOCAL_GATEWAYS_MAX"),
        default=20,
    ),
    Option(
        "--size-classes",
        "what one replica of each size takes of its cluster; accounted, not enforced by the local provisioner",
        metavar="CLASSES",
        env=_cp("SIZE_CLASSES"),
        default="s=250m/256Mi,m=500m/512Mi,l=1000m/1Gi,xl=2000m/2Gi",
    ),
    Option(
        "--apply-timeout-s",
        "seconds for starting a gateway's processes",
        kind="number",
        metavar="SECONDS",
        env=_cp("APPLY_TIMEOUT_S"),
        default=30.0,
    ),
    Option(
        "--confirm-timeout-s",
        "seconds for enrolment, config acknowledgement and a first answer",
        kind="number",
        metavar="SECONDS",
        env=_cp("CONFIRM_TIMEOUT_S"),
        default=60.0,
    ),
    Option(
        "--recovery-soak-s",
        "seconds that a gateway which was brought back must stay up to count as recovered",
        kind="number",
        metavar="SECONDS",
        env=_cp("RECOVERY_SOAK_S"),
        default=60.0,
    ),
    Option(
        "--recovery-pause-s",
        "longest pause, in seconds, before a gateway that ended again is brought back",
        kind="number",
        metavar="SECONDS",
        env=_cp("RECOVERY_PAUSE_S"),
        default=60.0,
    ),
    Option(
        "--stop-grace-s",
        "seconds from SIGTERM to SIGKILL of a gateway",
        kind="number",
        metavar="SECONDS",
        env=_cp("STOP_GRACE_S"),
        default=5.0,
    ),
    Option(
        "--log-level",
        "lowest level that is logged",
        env=_cp("LOG_LEVEL"),
        default="info",
        choices=("debug", "info", "warning", "error"),
    ),
)

AGENT = (
    Option(
        "--enrollment-url",
        "enrolment URL; needed for the first run only",
        metavar="URL",
        env=("MCPG_ENROLLMENT_URL",),
        secret=True,
    ),
    Option(
        "--cp-grpc",
        "gRPC URL of the control plane",
        metavar="URL",
        env=("MCPG_CP_GRPC",),
        default="http://127.0.0.1:7844",
    ),
    Option(
        "--instance-uid",
        "name to enrol under; empty: <hostname>-<8 hex>",
        metavar="UID",
        env=("MCPG_INSTANCE_UID",),
    ),
    Option("--config", "local gateway config, used until a push", metavar="FILE", env=("MCPG_CONFIG",)),
    Option(
        "--exec",
        "gateway program (`mcpg`, or its path) to run and supervise as the data plane; empty: ours",
        metavar="PROGRAM",
        env=("MCPG_GATEWAY_EXEC",),
    ),
    Option(
        "--drain-timeout-s",
        "seconds from SIGTERM for running calls to finish",
        kind="number",
        metavar="SECONDS",
        env=("MCPG_DRAIN_TIMEOUT_S",),
        default=10.0,
    ),
)
ENROLMENT_FILE = Option(
    "--enrollment-url-file",
    "file with the enrolment URL, - for stdin; keeps it out of the process list",
    kind="path",
    metavar="PATH",
)

LOGIN = (
    Option("--issuer", "OpenID issuer to sign in at", metavar="URL", env=("MCPG_FED_ISSUER",)),
    Option(
        "--client-id",
        "name this programme is registered under at the issuer",
        metavar="ID",
        env=("MCPG_FED_CLIENT_ID",),
        default="mcpg-ctl",
    ),
)

OUTPUT = Option(
    "--output",
    "how data is printed on stdout",
    env=("MCPG_OUTPUT",),
    default="table",
    choices=("table", "wide", "name", "json", "yaml", "jsonl"),
    short="-o",
)
DRAWN = Option(
    "--output",
    "how the machine is printed on stdout",
    env=OUTPUT.env,
    default="table",
    choices=(*OUTPUT.choices, "mermaid", "svg"),
    short="-o",
)
CONTEXT = Option(
    "--context",
    "stored context: the default of the options that are not given; none: without",
    metavar="NAME",
    env=("MCPG_CONTEXT",),
    names="context",
)
CONNECTION = (
    CONTEXT,
    Option(
        "--cp-url", "URL of the control plane", metavar="URL", env=("MCPG_CP_URL",), default="http://127.0.0.1:7843"
    ),
    Option(
        "--session-cookie-file",
        "file with the session, - for stdin; keeps it out of the process list",
        kind="path",
        metavar="PATH",
        env=("MCPG_SESSION_COOKIE_FILE",),
    ),
    Option(
        "--session-cookie",
        "session, sent as cookie mcpg_sid",
        metavar="VALUE",
        env=("MCPG_SESSION_COOKIE",),
        secret=True,
    ),
)
ORG = Option("--org", "organisation slug", metavar="SLUG", env=("MCPG_ORG",), names="org")
PLACE = (
    ORG,
    Option("--workspace", "workspace slug", metavar="SLUG", env=("MCPG_WORKSPACE",), names="workspace"),
    Option("--env", "environment slug", metavar="SLUG", env=("MCPG_ENV",), names="environment"),
)
CLIENT = (OUTPUT, *CONNECTION, *GLOBAL)
TREES = {
    "client": (*PLACE, *CONNECTION, OUTPUT, *GLOBAL),
    "server": (*SERVER, *GLOBAL),
    "agent": (*AGENT, *GLOBAL),
    "login": (*LOGIN, *GLOBAL),
}
"""The settings trees of mcpg/settings.py."""
VIEWING = (
    Option(
        "--timeout",
        "stop waiting after this time, exit 124; the operation goes on",
        kind="number",
        metavar="SECONDS",
        default=None,
        low=0.001,
        high=86_400,
    ),
)
WAITING = (
    Option(
        "--wait",
        "follow the operation to its end; --no-wait returns when it is accepted",
        kind="flag",
        default=True,
        negated="--no-wait",
    ),
    *VIEWING,
    Option(
        "--idempotency-key",
        "two requests with one key are one operation; default: new in each run",
        metavar="KEY",
    ),
)
YES = Option("--yes", "do not ask; a protected context wants --confirm", kind="flag", default=False, short="-y")
CONFIRM = Option("--confirm", "name of what is destroyed, in place of typing it when asked", metavar="NAME")
NO_BROWSER = Option("--no-browser", "print the URL only", kind="flag", default=False)
