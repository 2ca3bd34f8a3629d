"""
Every command, option and example of the command line, as plain data: the one table.

Read by mcpg/cli/parse.py (what is valid), resolve.py (flag > environment > default) and helptext.py (every help page).
To add a command: write its function, append one `Command` here; help, did-you-mean and parsing follow. Nothing but the
shapes of table.py is imported, because `--help` and `--version` must cost no more than Python itself.

The options that are settings repeat mcpg/settings.py, which costs 400 ms to import; tests/cli/test_table.py proves that
names, environment, defaults, choices and words are the same, and that both resolve alike.
"""

from mcpg.cli.table import Command, Option

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
    Option("--db-url", "sqlite://PATH?mode=rwc; empty: <state-dir>/cp-state.db", metavar="URL", env=_cp("DB_URL")),
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
        "path of the gateway binary; empty: `mcpg` on PATH, then the project cache, then our own agent",
        metavar="PATH",
        env=_cp("GATEWAY_BIN"),
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
)

OUTPUT = Option(
    "--output",
    "how data is printed on stdout",
    env=("MCPG_OUTPUT",),
    default="table",
    choices=("table", "wide", "name", "json", "yaml", "jsonl"),
    short="-o",
)
CONNECTION = (
    Option(
        "--cp-url", "URL of the control plane", metavar="URL", env=("MCPG_CP_URL",), default="http://127.0.0.1:7843"
    ),
    Option(
        "--session-cookie-file",
        "file with the session, - for stdin; keeps it out of the process list",
        kind="path",
        metavar="PATH",
    ),
    Option("--session-cookie", "session, sent as cookie mcpg_sid", metavar="VALUE", env=("MCPG_SESSION_COOKIE",)),
)
ORG = Option("--org", "organisation slug", metavar="SLUG", env=("MCPG_ORG",))
PLACE = (
    ORG,
    Option("--workspace", "workspace slug", metavar="SLUG", env=("MCPG_WORKSPACE",)),
    Option("--env", "environment slug", metavar="SLUG", env=("MCPG_ENV",)),
)
CLIENT = (OUTPUT, *CONNECTION, *GLOBAL)
WAITING = (
    Option(
        "--wait",
        "follow the operation to its end; --no-wait returns when it is accepted",
        kind="flag",
        default=True,
        negated="--no-wait",
    ),
    Option(
        "--timeout",
        "stop waiting after this time, exit 124; the operation goes on",
        kind="number",
        metavar="SECONDS",
        default=None,
        low=0.001,
        high=86_400,
    ),
    Option(
        "--idempotency-key",
        "two requests with one key are one operation; default: new in each run",
        metavar="KEY",
    ),
)
NO_BROWSER = Option("--no-browser", "print the URL only", kind="flag", default=False)

COMMANDS = (
    Command(
        "quickstart",
        "mcpg.cli.local:quickstart",
        "run a control plane on the defaults and open its UI",
        about="Finds the one that runs already, if there is one, and opens that.",
        examples=("mcpg-ctl quickstart", "mcpg-ctl quickstart --no-browser --bind-http 127.0.0.1:7900"),
        options=(NO_BROWSER, OUTPUT, *SERVER, *GLOBAL),
    ),
    Command(
        "serve",
        "mcpg.cli.local:serve",
        "run a control plane with explicit options",
        about="Logs go to stderr. SIGTERM or Ctrl-C stops it; its gateways run on.",
        examples=(
            "mcpg-ctl serve",
            "mcpg-ctl serve --db-url 'sqlite:///srv/cp.db?mode=rwc'",
        ),
        options=(*SERVER, *GLOBAL),
    ),
    Command(
        "status",
        "mcpg.cli.status:status",
        "what runs on this machine, and what its database holds",
        about="Reads only. Works with the server down.",
        examples=("mcpg-ctl status", "mcpg-ctl status -o json"),
        options=(OUTPUT, *GLOBAL),
    ),
    Command(
        "gateway",
        "mcpg.cli.gateway:gateway",
        "run a gateway agent: enrol, heartbeat, take its config",
        about="Later runs reuse the stored credentials and need no enrolment URL.",
        examples=(
            "mcpg-ctl gateway --enrollment-url 'http://cp:7843/enroll/v1#token=…'",
            "mcpg-ctl gateway",
        ),
        options=(*AGENT, *GLOBAL),
    ),
    Command(
        "gateway-status",
        "mcpg.cli.gateway:status",
        "what the gateway agent of this machine has stored",
        about="Credentials, last endpoint, last known good config hash, registration time. Never a secret.",
        examples=("mcpg-ctl gateway-status", "mcpg-ctl gateway-status -o json"),
        options=(OUTPUT, *GLOBAL),
    ),
    Command(
        "provision create",
        "mcpg.cli.provision:create",
        "create or update a managed gateway",
        about="Shows its ladder. The operation lives on the server: Ctrl-C leaves it running."
        " With MCPG_ORG, MCPG_WORKSPACE and MCPG_ENV set, the place may be left out.",
        examples=(
            "mcpg-ctl provision create --org acme --workspace prod --env us --name edge-1",
            "mcpg-ctl provision create --name edge-1 --config gateway.yaml --replicas 2",
            "mcpg-ctl provision create --name edge-1 --no-wait -o name",
        ),
        options=(
            *PLACE,
            Option("--name", "the gateway's name: a-z, 0-9 and -, 2 to 40 characters", metavar="SLUG"),
            Option(
                "--config",
                "gateway config, YAML or TOML, - for stdin; at most 3 MiB",
                kind="path",
                metavar="FILE",
            ),
            Option(
                "--replicas",
                "processes that serve it; default: 1, an update keeps its own",
                kind="int",
                metavar="N",
                low=1,
                high=100,
            ),
            Option(
                "--size",
                "size class to record; default: s; the local provisioner sets no limits",
                default="",
                choices=("s", "m", "l", "xl"),
            ),
            Option("--region", "only clusters of this region", metavar="REGION"),
            Option("--isolation-tier", "only clusters of this tier", metavar="TIER"),
            Option("--custom-hostname", "host name to record; the local provisioner serves none", metavar="HOST"),
            Option("--image-tag", "gateway release to record; the local provisioner has one", metavar="TAG"),
            *WAITING,
            *CLIENT,
        ),
        required=("org", "workspace", "env", "name"),
    ),
    Command(
        "provision delete",
        "mcpg.cli.provision:delete",
        "tear a managed gateway down",
        about="Asks first. The operation lives on the server: Ctrl-C leaves it running."
        " With MCPG_ORG, MCPG_WORKSPACE and MCPG_ENV set, the place may be left out.",
        examples=(
            "mcpg-ctl provision delete --instance-uid UID",
            "mcpg-ctl provision delete --instance-uid UID --yes -o json",
        ),
        options=(
            *PLACE,
            Option("--instance-uid", "the gateway; `provision history -o wide` shows them", metavar="UID"),
            Option("--yes", "do not ask", kind="flag", default=False, short="-y"),
            *WAITING,
            *CLIENT,
        ),
        required=("org", "workspace", "env", "instance_uid"),
    ),
    Command(
        "provision history",
        "mcpg.cli.history:history",
        "recent operations, newest first",
        examples=(
            "mcpg-ctl provision history --org acme",
            "mcpg-ctl provision history --org acme --verbose --limit 1",
            "mcpg-ctl provision history --org acme -o jsonl",
        ),
        options=(
            ORG,
            Option("--verbose", "every transition of every operation", kind="flag", default=False, short="-v"),
            Option("--limit", "how many operations", kind="int", metavar="N", default=20, low=1, high=1000),
            *CLIENT,
        ),
        required=("org",),
    ),
    Command(
        "version",
        "mcpg.cli.about:version",
        "the version of this programme",
        examples=("mcpg-ctl version", "mcpg-ctl version -o json"),
        options=(OUTPUT, *GLOBAL),
    ),
)

GROUPS = {"provision": "managed gateways: create, delete, and their histories"}

TOPICS = {
    "exit-codes": """\
Exit codes:
  0    it worked
  1    the operation or the command failed
  2    usage: a wrong command, option or value
  3    not found
  4    not signed in, or forbidden
  5    refused as things are: illegal transition, conflict, name taken
  6    no control plane answers
  7    no cluster has room
  8    still pending
  124  stopped waiting (--timeout); the operation goes on
  130  Ctrl-C; the operation goes on
  141  the reader of stdout went away
""",
    "output": """\
Output: data on stdout, everything else on stderr.
  -o table   columns for people; nothing is cut when it is not a terminal
  -o wide    more columns
  -o name    one id a line, for xargs
  -o json    one JSON document; errors are one JSON object on stderr
  -o jsonl   one JSON object a line
  -o yaml    YAML
Colour: only on a terminal, never with NO_COLOR or TERM=dumb; FORCE_COLOR=1.
Ladder: moves on a terminal; one line an event when piped, with CI or TERM=dumb.
MCPG_DEBUG=1 adds the traceback to an error.
""",
}
