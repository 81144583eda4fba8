"""Exit codes: the classes of `ebbtide.errors`, as scripts see them, and how an error is told.

A failed command prints one sentence and, where there is one, a line `hint: …` on standard error. With `-o json` it
prints one line of JSON there instead; standard output stays empty, or holds the documents printed before.

    {"error": {"kind": "NotFound", "exitCode": 4, "message": "…", "hint": "…"}}

What the API refused has its `status`, `errorCode` and `detail` too. docs/exit-codes.md is rendered here.
"""

import json
from collections.abc import Iterator
from typing import Any

from ebbtide import errors
from ebbtide.errors import EbbtideError

INTERRUPTED = 130
"""128 + SIGINT, as shells count it."""

USAGE = 2
"""The command line itself could not be read: the same code as InvalidInput."""


class Interrupted(Exception):
    """The user pressed Ctrl-C; `message` says what goes on without them, and how to look at it."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


def error_document(error: EbbtideError) -> dict[str, Any]:
    """What `-o json` prints for `error`. An error may add fields of its own with `details`."""
    kind = getattr(error, "kind", type(error))
    document: dict[str, Any] = {
        "kind": kind.__name__,
        "exitCode": error.exit_code,
        "message": error.message,
        "hint": error.hint,
    }
    document.update(getattr(error, "details", {}))
    return {"error": document}


def problem_document(*, kind: str, exit_code: int, message: str) -> dict[str, Any]:
    """The same for what is no EbbtideError: wrong usage, an interrupt."""
    return {"error": {"kind": kind, "exitCode": exit_code, "message": message, "hint": ""}}


def document_line(document: dict[str, Any]) -> str:
    return json.dumps(document, ensure_ascii=False)


def iter_error_classes() -> Iterator[tuple[int, type[EbbtideError]]]:
    """Every class of `ebbtide.errors` with its depth in the tree, parents before children."""

    def walk(kind: type[EbbtideError], depth: int) -> Iterator[tuple[int, type[EbbtideError]]]:
        yield depth, kind
        for child in kind.__subclasses__():
            if child.__module__ == errors.__name__:
                yield from walk(child, depth + 1)

    return walk(EbbtideError, 0)


def render_exit_codes_page() -> str:
    """docs/exit-codes.md: every exit code with the errors behind it, and what the API's answers become."""
    lines = [
        "# Exit codes",
        "",
        "Every `ebbtide` command ends with one of these, so that scripts can tell failures apart. This page is what",
        "`ebbtide config reference exit-codes` prints.",
        "",
        "| code | error | meaning | trying again may help |",
        "|---|---|---|---|",
        "| 0 | – | The command did what it was asked to. | – |",
    ]
    for depth, kind in iter_error_classes():
        meaning = (kind.__doc__ or "").strip().splitlines()[0]
        indent = "&nbsp;&nbsp;" * depth
        again = "yes" if kind.retryable else "no"
        lines.append(f"| {kind.exit_code} | {indent}`{kind.__name__}` | {meaning} | {again} |")
    lines += [
        f"| {INTERRUPTED} | – | Interrupted by Ctrl-C; the message says what goes on in the background. | – |",
        "",
        "A command line that cannot be read (an unknown option, a missing argument) ends with "
        f"{USAGE}, like any other input",
        "that cannot be used.",
        "",
        "## What the API's answers become",
        "",
        "| HTTP status | code | error |",
        "|---|---|---|",
    ]
    from ebbtide.cli.api_errors import STATUS_KINDS, error_kind

    for status in sorted(STATUS_KINDS):
        kind = error_kind(status)
        lines.append(f"| {status} | {kind.exit_code} | `{kind.__name__}` |")
    for label, status in (("other 4xx", 418), ("5xx", 500)):
        kind = error_kind(status)
        lines.append(f"| {label} | {kind.exit_code} | `{kind.__name__}` |")
    lines += [
        "| no answer | 6 | `Unreachable` |",
        "",
        "## With `-o json`",
        "",
        "A failure is one line of JSON on standard error; standard output stays empty, or holds the documents that were",
        "printed before it. `status`, `errorCode` and `detail` are there when the API refused.",
        "",
        "```json",
        '{"error": {"kind": "NotFound", "exitCode": 4, "message": "…", "hint": "…", "status": 404, '
        '"errorCode": "SNAPSHOT_NOT_FOUND", "detail": "…"}}',
        "```",
    ]
    return "\n".join(lines) + "\n"
