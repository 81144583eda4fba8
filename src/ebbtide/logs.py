"""Our own log: an event name, fields and a readable sentence, on standard error; never a secret.

Download keys and credentials are not passed to the logger in the first place; as a second line of defence, a
processor cuts what looks like one out of every field.
"""

import logging
import re
import sys

import structlog
from structlog.typing import EventDict, WrappedLogger

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

# The key in a v2 link, credentials in a URI, an authorization header.
_SECRET_SHAPES = (
    (re.compile(r"(/backup/restore/v2/pull/[0-9a-f]{24}/)[^/\s]+"), r"\1<key>"),
    (re.compile(r"(mongodb(?:\+srv)?://)[^/@\s]+@"), r"\1<credentials>@"),
    (re.compile(r"((?:Bearer|Basic|Digest) )[^\s].*"), r"\1<credentials>"),
)


def redact(text: str) -> str:
    """`text` with everything that looks like a secret cut out."""
    for shape, replacement in _SECRET_SHAPES:
        text = shape.sub(replacement, text)
    return text


def _redact_fields(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    return {key: _redact_value(value) for key, value in event.items()}


def _redact_value(value: object) -> object:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, BaseException):
        # Renderers would show its `repr`, which quotes whatever a library put into it.
        return redact(f"{type(value).__name__}: {value}")
    if isinstance(value, dict):
        return {key: _redact_value(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_redact_value(inner) for inner in value]
    return value


def configure_logs(*, level: str, style: str) -> None:
    """Set up logging for this process. `style`: console, json, or auto (console on a terminal)."""
    console = style == "console" or (style == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _redact_fields,
    ]
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        if console
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    # Libraries (PyMongo, uvicorn) at warning, or everything at debug; redacted on the way out as well.
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_RedactingFormatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if level == "debug" else logging.WARNING)


class _RedactingFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))
