"""`ebbtide clusters …`."""

import typer


def register(app: typer.Typer) -> None:
    """Add `clusters` to the command line."""
