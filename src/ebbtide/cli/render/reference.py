"""docs/cli.md: the help of every command, as the commands themselves print it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import typer
from typer.main import get_command

WIDTH = 100
"""Columns of the help in the page; a terminal's own width must not change it."""


@dataclass(frozen=True, kw_only=True)
class CommandHelp:
    """One command: its full name, and what `--help` prints."""

    name: str
    text: str
    is_group: bool


def iter_help(app: typer.Typer, program: str) -> Iterator[CommandHelp]:
    """Every command of the tree, groups before what is in them, in the order of `--help`."""
    # Typer names no type for its commands and contexts.
    pending: list[tuple[str, Any, Any]] = [(program, get_command(app), None)]
    while pending:
        name, current, parent = pending.pop(0)
        context = current.make_context(
            name.rsplit(" ", 1)[-1],
            [],
            parent=parent,
            resilient_parsing=True,
            terminal_width=WIDTH,
            max_content_width=WIDTH,
        )
        inside = getattr(current, "commands", {})
        yield CommandHelp(name=name, text=_tidy(current.get_help(context)), is_group=bool(inside))
        pending[:0] = [(f"{name} {child}", inside[child], context) for child in inside]


def render_cli_page() -> str:
    """The page, Markdown."""
    from ebbtide.cli.main import PROGRAM, build_app

    lines = [
        "# The command line",
        "",
        "What `--help` says, command by command. This page is what `ebbtide config reference cli` prints.",
        "",
        "Results go to standard output, progress and remarks to standard error; `-o json` makes the result one JSON",
        "document (for `watch`: one a line). [Exit codes](exit-codes.md) tell failures apart.",
        "",
        "## Which API, which key",
        "",
        "`EBBTIDE_URL`, `EBBTIDE_PUBLIC_KEY` and `EBBTIDE_PRIVATE_KEY`, all three, or a profile: a table in",
        "`$XDG_CONFIG_HOME/ebbtide/profiles.toml` (`~/.config` without it), mode 0600, chosen by `--profile NAME`, else",
        "by `EBBTIDE_PROFILE`, else `default`. `--profile` is stronger than the three variables. The first",
        "`ebbtide serve` on a terminal writes one.",
        "",
        "```toml",
        "[default]",
        'base_url = "http://127.0.0.1:27080"',
        'public_key = "…"',
        'private_key = "…"',
        'group_id = "…"',
        "```",
        "",
        "`ebbtide --install-completion` sets up completion for your shell: commands, options, and names of",
        "clusters, projects, keys, service accounts and members.",
    ]
    for help_ in iter_help(build_app(), PROGRAM):
        level = "##" if help_.is_group else "###"
        lines += ["", f"{level} {help_.name}", "", "```text", help_.text, "```"]
    return "\n".join(lines) + "\n"


def _tidy(text: str) -> str:
    return re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE).strip("\n")
