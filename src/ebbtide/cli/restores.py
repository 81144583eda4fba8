"""`ebbtide restores …`."""

import typer


def register(app: typer.Typer) -> None:
    """Add `restores` to the command line."""
