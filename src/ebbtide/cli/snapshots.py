"""`ebbtide snapshots …`."""

import typer


def register(app: typer.Typer) -> None:
    """Add `snapshots` to the command line."""
