"""Commands that work on this machine: the server, the gateway agent, what runs here."""

from mcpg.cli.options import AGENT, CONNECTION, ENROLMENT_FILE, GLOBAL, NO_BROWSER, OUTPUT, SERVER
from mcpg.cli.table import Command, Option

_SERVER = {option.name: option for option in SERVER}
_DOCTOR = (
    Option("--strict", "warnings count as failures: exit 1", kind="flag", default=False),
    Option("--slow", "wait for a heartbeat on the event stream too, up to 20 s", kind="flag", default=False),
    *(
        _SERVER[name]
        for name in ("--bind-http", "--bind-grpc", "--db-url", "--auth-mode", "--insecure-no-auth", "--gateway-bin")
    ),
)

COMMANDS = (
    Command(
        "quickstart",
        "mcpg.cli.local:quickstart",
        "run a control plane on the defaults and open its UI",
        about="Finds the one that runs already, if there is one, and opens that. Stores the context `local` when none is"
        " stored, so that the next command needs no place and no URL.",
        examples=("mcpg-ctl quickstart", "mcpg-ctl quickstart --no-browser --bind-http 127.0.0.1:7900"),
        options=(NO_BROWSER, OUTPUT, *SERVER, *GLOBAL),
        shape="Started",
    ),
    Command(
        "serve",
        "mcpg.cli.local:serve",
        "run a control plane with explicit options",
        about="Logs go to stderr. SIGTERM or Ctrl-C stops it; its gateways run on.",
        examples=(
            "mcpg-ctl serve",
            "mcpg-ctl serve --db-url 'sqlite:///srv/cp.db?mode=rwc'",
            "mcpg-ctl serve --db-url postgres://mcpg@db.internal/mcpg",
        ),
        options=(*SERVER, *GLOBAL),
    ),
    Command(
        "status",
        "mcpg.cli.status:status",
        "what runs on this machine, and what its database holds",
        about="Reads only. Works with the server down. Without --db-url the database is the one the server says it has.",
        examples=("mcpg-ctl status", "mcpg-ctl status -o json"),
        options=(OUTPUT, _SERVER["--db-url"], *GLOBAL),
        shape="Status",
    ),
    Command(
        "doctor",
        "mcpg.cli.doctor:doctor",
        "what is wrong here, and the command that mends it",
        about="Reads only; no check takes longer than 2 s. Exit 1 when one fails; warnings do not count without --strict.",
        examples=("mcpg-ctl doctor", "mcpg-ctl doctor --strict -o json"),
        options=(OUTPUT, *_DOCTOR, *CONNECTION, *GLOBAL),
        shape="DoctorReport",
    ),
    Command(
        "gateway",
        "mcpg.cli.gateway:gateway",
        "run a gateway agent: enrol, heartbeat, take its config",
        about="Later runs reuse the stored credentials and need no enrolment URL. SIGTERM or Ctrl-C drains, tells the"
        " control plane and stops; a second one stops at once.",
        examples=(
            "mcpg-ctl token create -o name | mcpg-ctl gateway --enrollment-url-file -",
            "mcpg-ctl gateway",
            "mcpg-ctl gateway --exec mcpg --config gateway.yaml",
        ),
        options=(ENROLMENT_FILE, *AGENT, *GLOBAL),
    ),
    Command(
        "gateway-status",
        "mcpg.cli.gateway:status",
        "what the gateway agent of this machine has stored, and does",
        about="Credentials, last endpoint, last known good config, registration time; whether an agent runs, its session"
        " and its data plane. Never a secret.",
        examples=("mcpg-ctl gateway-status", "mcpg-ctl gateway-status -o json"),
        options=(OUTPUT, *GLOBAL),
        shape="GatewayStatus",
    ),
)
