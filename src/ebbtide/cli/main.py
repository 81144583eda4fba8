"""The `ebbtide` command: its tree of commands, and how each ends.

Commands raise; this is the one place that prints an error and picks the exit code (see `exit_codes`). Results go to
standard output, everything else to standard error.
"""

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from ebbtide import __version__
from ebbtide.cli import (
    checkpoints,
    clusters,
    config,
    demo,
    doctor,
    events,
    hosts,
    keys,
    oplog,
    projects,
    repository,
    restores,
    schedule,
    serve,
    service_accounts,
    snapshots,
)
from ebbtide.cli.exit_codes import (
    INTERRUPTED,
    Interrupted,
    document_line,
    error_document,
    problem_document,
)
from ebbtide.cli.render.output import plain
from ebbtide.errors import EbbtideError

PROGRAM = "ebbtide"

_EPILOG = """\b
Examples:
  ebbtide demo                          see it work on a throwaway replica set
  ebbtide serve --data /var/lib/ebbtide
  ebbtide clusters add shop --uri mongodb://db1:27017/?replicaSet=rs0
  ebbtide snapshots create shop
  ebbtide restores start shop --wait
"""


def build_app() -> typer.Typer:
    """The whole tree of commands."""
    app = typer.Typer(
        name=PROGRAM,
        help="Back up self-managed MongoDB, and get it back.",
        epilog=_EPILOG,
        no_args_is_help=True,
        # Plain help: the same in a terminal, in a pipe and in docs/cli.md, and examples keep their lines.
        rich_markup_mode=None,
        # An unexpected error must not show values: they may be secrets.
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    app.callback()(_root)
    serve.register(app)
    demo.register(app)
    doctor.register(app)
    modules = (
        clusters,
        snapshots,
        schedule,
        checkpoints,
        restores,
        oplog,
        repository,
        events,
        hosts,
        projects,
        keys,
        service_accounts,
        config,
    )
    for module in modules:
        module.register(app)
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit code."""
    raise SystemExit(run(list(sys.argv[1:] if arguments is None else arguments)))


def run(arguments: list[str], *, app: typer.Typer | None = None) -> int:
    """Run one command; its exit code. Errors are told on standard error."""
    as_json = wants_json(arguments)
    try:
        code = (app or build_app())(args=arguments, prog_name=PROGRAM, standalone_mode=False)
        sys.stdout.flush()
    except EbbtideError as error:
        _tell(error, as_json=as_json)
        return error.exit_code
    except Interrupted as error:
        _say(as_json, kind="Interrupted", code=INTERRUPTED, message=error.message)
        return INTERRUPTED
    except (KeyboardInterrupt, typer.Abort):
        _say(as_json, kind="Interrupted", code=INTERRUPTED, message="interrupted")
        return INTERRUPTED
    except typer.TyperException as error:
        _tell_usage(error, as_json=as_json)
        return error.exit_code
    except BrokenPipeError:
        # The reader of our output (`head`, say) went away. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code if isinstance(code, int) else 0


def wants_json(arguments: Sequence[str]) -> bool:
    """Whether `-o json` is among the arguments; known before they are parsed, so that wrong usage is told so too."""
    for index, argument in enumerate(arguments):
        if argument == "--":
            return False
        if argument in ("-ojson", "-o=json", "--output=json", "--json"):
            return True
        if argument in ("-o", "--output") and arguments[index + 1 : index + 2] == ["json"]:
            return True
    return False


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"{PROGRAM} {__version__}\n")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Options of `ebbtide` itself."""


def _tell(error: EbbtideError, *, as_json: bool) -> None:
    if as_json:
        _line(document_line(error_document(error)))
        return
    _line(f"error: {plain(error.message)}")
    if error.hint:
        _line(f"hint: {plain(error.hint)}")


def _tell_usage(error: typer.TyperException, *, as_json: bool) -> None:
    message = error.format_message()
    if as_json:
        _say(as_json, kind="Usage", code=error.exit_code, message=message)
    elif message.startswith("Usage:"):
        # A group of commands without one of them: what Typer raises is its help.
        _line(message)
    else:
        _line(f"error: {plain(message)}")
        _line(f"hint: {_help_of(error)} --help")


def _say(as_json: bool, *, kind: str, code: int, message: str) -> None:
    if as_json:
        text = document_line(problem_document(kind=kind, exit_code=code, message=message))
    else:
        text = message if code == INTERRUPTED else f"error: {plain(message)}"
    _line(text)


def _line(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _help_of(error: typer.TyperException) -> str:
    context = getattr(error, "ctx", None)
    return getattr(context, "command_path", PROGRAM)
