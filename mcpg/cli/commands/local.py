"""Commands that work on this machine: the server, the gateway agent, what runs here."""

from mcpg.cli.options import AGENT, GLOBAL, NO_BROWSER, OUTPUT, SERVER
from mcpg.cli.table import Command

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
        "version",
        "mcpg.cli.about:version",
        "the version of this programme",
        examples=("mcpg-ctl version", "mcpg-ctl version -o json"),
        options=(OUTPUT, *GLOBAL),
    ),
)
