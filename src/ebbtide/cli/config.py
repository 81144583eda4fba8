"""`ebbtide config …`: settings, where each comes from, and the pages about them."""

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from ebbtide.cli.exit_codes import render_exit_codes_page
from ebbtide.cli.profile import profiles_path
from ebbtide.cli.render.output import Output, OutputFormat
from ebbtide.cli.session import OutputOption
from ebbtide.logs import redact
from ebbtide.settings import SETTINGS, Settings, render_reference, resolve_settings

SETTINGS_FILE = "ebbtide.toml"


class Reference(StrEnum):
    """A page that can be printed."""

    SETTINGS = "settings"
    EXIT_CODES = "exit-codes"
    CLI = "cli"


def register(app: typer.Typer) -> None:
    """Add `config` to the command line."""
    commands = typer.Typer(name="config", help="See settings and where they come from.", no_args_is_help=True)
    commands.command(name="show", epilog=_SHOW_EXAMPLES)(show)
    commands.command(name="reference", epilog=_REFERENCE_EXAMPLES)(reference)
    commands.command(name="path", epilog=_PATH_EXAMPLES)(path)
    app.add_typer(commands)


DataOption = Annotated[
    Path | None, typer.Option("--data", metavar="DIR", help="The data directory; its ebbtide.toml is read.")
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="A settings file instead of DIR/ebbtide.toml.")
]

_SHOW_EXAMPLES = """\b
Examples:
  ebbtide config show --data /var/lib/ebbtide
  EBBTIDE_HEAD_CACHE_GB=2 ebbtide config show
  ebbtide config show --config ./ebbtide.toml -o json | jq '."head.cache_gb"'
"""


def show(
    data: DataOption = None, config: ConfigOption = None, output: OutputOption = OutputFormat.TEXT
) -> None:
    """Show every setting's value and where it came from: default, file or environment."""
    file = settings_file(data, config)
    settings = resolve_settings(
        flags={}, environment=os.environ, file=file, file_must_exist=config is not None
    )
    out = Output(output)
    out.document(settings_document(settings))
    rows = [
        (setting.name, _shown(settings[setting.name]), settings.origins[setting.name]) for setting in SETTINGS
    ]
    out.table(("SETTING", "VALUE", "FROM"), rows, empty="")


_REFERENCE_EXAMPLES = """\b
Examples:
  ebbtide config reference
  ebbtide config reference exit-codes
  ebbtide config reference cli > docs/cli.md
"""


def reference(
    page: Annotated[Reference, typer.Argument(metavar="settings|exit-codes|cli", help="Which page.")] = (
        Reference.SETTINGS
    ),
    output: OutputOption = OutputFormat.TEXT,
) -> None:
    """Print a page of the documentation: settings, exit codes, or every command's help."""
    text = render_page(page)
    out = Output(output)
    out.document({"page": page.value, "markdown": text})
    out.text(text.removesuffix("\n"))


_PATH_EXAMPLES = """\b
Examples:
  ebbtide config path
  ebbtide config path -o json | jq -r .profiles
"""


def path(data: DataOption = None, output: OutputOption = OutputFormat.TEXT) -> None:
    """Print where profiles and settings are read from."""
    places = {"profiles": str(profiles_path(os.environ))}
    if data is not None:
        places["settings"] = str(data / SETTINGS_FILE)
    out = Output(output)
    out.document(places)
    out.fields(list(places.items()))


def settings_file(data: Path | None, config: Path | None) -> Path | None:
    """The file that settings are read from, if any."""
    if config is not None:
        return config
    return None if data is None else data / SETTINGS_FILE


def settings_document(settings: Settings) -> dict[str, dict[str, Any]]:
    """Every setting by name, with its `value` and `origin`; credentials in URIs are cut out."""
    return {
        setting.name: {
            "value": _without_secrets(settings[setting.name]),
            "origin": settings.origins[setting.name],
        }
        for setting in SETTINGS
    }


def render_page(page: Reference) -> str:
    """The text of one page, Markdown."""
    match page:
        case Reference.SETTINGS:
            return render_reference()
        case Reference.EXIT_CODES:
            return render_exit_codes_page()
        case Reference.CLI:
            # Late: that module needs the whole tree of commands, this one included.
            from ebbtide.cli.render.reference import render_cli_page

            return render_cli_page()


def _without_secrets(value: Any) -> Any:
    return redact(value) if isinstance(value, str) else value


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ", ".join(str(item) for item in value) or "–"
    return str(_without_secrets(value))
