"""`ebbtide config …`."""

import typer


def register(app: typer.Typer) -> None:
    """Add `config` to the command line."""
