"""`ebbtide serve`."""

import typer


def register(app: typer.Typer) -> None:
    """Add `serve` to the command line."""
