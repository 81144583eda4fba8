"""`ebbtide keys …`."""

import typer


def register(app: typer.Typer) -> None:
    """Add `keys` to the command line."""
