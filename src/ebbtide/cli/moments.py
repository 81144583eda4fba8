"""The options that say "when" and "how long" on the command line, and what the API is told for them."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from ebbtide.errors import InvalidInput

AtOption = Annotated[
    str | None,
    typer.Option(
        "--at",
        metavar="TIME|now",
        help="A moment, up to the end of that second: 2026-11-22T10:00:00Z; without a zone it is UTC.",
    ),
]
OplogOption = Annotated[
    str | None,
    typer.Option("--oplog", metavar="SECONDS:INC", help="An oplog timestamp, up to and including its entry."),
]

_DURATION = re.compile(r"(\d{1,6})\s*([hd]?)")
_OPLOG = re.compile(r"([0-9]{1,10}):([0-9]{1,10})")


def parse_moment(*, snapshot: str | None, at: str | None, oplog: str | None) -> dict[str, Any] | None:
    """The moment as the API takes it; `{"snapshot": …}` for one that is still to be looked up, None for none at all.

    Raises InvalidInput for two of them, or a bad one.
    """
    given = {"--snapshot": snapshot, "--at": at, "--oplog": oplog}
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise InvalidInput(names[1], expected=f"it alone, without {names[0]}")
    if snapshot is not None:
        return {"snapshot": snapshot}
    if at is not None:
        return {"now": True} if at.strip().lower() == "now" else {"pointInTimeUTCMillis": parse_millis(at)}
    if oplog is None:
        return None
    found = _OPLOG.fullmatch(oplog.strip())
    if found is None:
        raise InvalidInput("--oplog", expected="SECONDS:INC, such as 1795341600:12", got=oplog)
    return {"oplogTs": int(found[1]), "oplogInc": int(found[2])}


def parse_millis(text: str) -> int:
    """An ISO 8601 time as milliseconds since 1970; without a zone it is UTC. Raises InvalidInput."""
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise InvalidInput("--at", expected="now, or a time such as 2026-11-22T10:00:00Z", got=text) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp() * 1000)


def parse_hours(text: str) -> int:
    """`24h`, `3d`, or a bare number of hours. Raises InvalidInput for less than one hour or more than int32 takes."""
    found = _DURATION.fullmatch(text.strip().lower())
    if found is None:
        raise InvalidInput("--expires-in", expected="whole hours or days, such as 24h or 3d", got=text)
    hours = int(found[1]) * (24 if found[2] == "d" else 1)
    if hours < 1:
        raise InvalidInput("--expires-in", expected="at least 1h", got=text)
    return hours
