"""`login`, `logout`, `auth`: who this machine is signed in as."""

from mcpg.cli.options import GLOBAL, LOGIN, NO_BROWSER, OUTPUT
from mcpg.cli.table import Command, Option

COMMANDS = (
    Command(
        "login",
        "mcpg.cli.login:login",
        "sign in with the browser; later commands use it",
        about="OpenID Connect with PKCE. The tokens are stored in the state directory, for you alone to read,"
        " and sent to control planes over https or on this machine only.",
        examples=(
            "mcpg-ctl login --issuer https://auth.example.com",
            "mcpg-ctl login --issuer https://auth.example.com --no-browser",
        ),
        options=(
            *LOGIN,
            NO_BROWSER,
            Option(
                "--timeout",
                "how long to wait for the browser, then exit 124",
                kind="number",
                metavar="SECONDS",
                default=300.0,
                low=0.001,
                high=86_400,
            ),
            OUTPUT,
            *GLOBAL,
        ),
        required=("issuer",),
        shape="Login",
    ),
    Command(
        "logout",
        "mcpg.cli.login:logout",
        "forget the stored login",
        about="Removes the file and revokes the refresh token, where the issuer can be reached.",
        examples=("mcpg-ctl logout",),
        options=(OUTPUT, *GLOBAL),
        shape="SignedOut",
    ),
    Command(
        "auth status",
        "mcpg.cli.login:status",
        "who is signed in, where, and for how long",
        about="Reads the stored login and asks nobody. Never a token.",
        examples=("mcpg-ctl auth status", "mcpg-ctl auth status -o json"),
        options=(OUTPUT, *GLOBAL),
        shape="Login",
    ),
)
