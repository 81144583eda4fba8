"""`ebbtide events …`."""

import typer


def register(app: typer.Typer) -> None:
    """Add `events` to the command line."""
