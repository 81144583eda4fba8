"""Query strings: presentation flags, paging, and the parameters of single lists.

Unknown parameters are ignored; a known one with a bad value is INVALID_QUERY_PARAMETER (contract sections 3 and 13).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote

from ebbtide.api.refusals import refusal
from ebbtide.domain.ids import is_id

ITEMS_PER_PAGE = 100
ITEMS_PER_PAGE_MAX = 500
_NUMBER = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True, kw_only=True)
class Query:
    """The parameters in the order sent; of a repeated one the last counts."""

    pairs: tuple[tuple[str, str], ...]

    def get(self, name: str) -> str | None:
        for key, value in reversed(self.pairs):
            if key == name:
                return value
        return None


def parse_query(query_string: str) -> Query:
    """Any query string; bytes that are not UTF-8 become replacement characters."""
    pairs = parse_qsl(query_string, keep_blank_values=True, errors="replace")
    return Query(pairs=tuple(pairs))


def encode_pairs(pairs: Sequence[tuple[str, str]]) -> str:
    """A query string for a link."""
    return "&".join(f"{quote(key, safe='')}={quote(value, safe='')}" for key, value in pairs)


@dataclass(frozen=True, kw_only=True)
class Presentation:
    """How the answer is written: indented, wrapped with its status."""

    pretty: bool = False
    envelope: bool = False


@dataclass(frozen=True, kw_only=True)
class Page:
    """Which part of a list was asked for; `number` counts from 1."""

    number: int
    items_per_page: int
    include_count: bool

    @property
    def skip(self) -> int:
        return (self.number - 1) * self.items_per_page


def parse_boolean(query: Query, name: str, *, default: bool) -> bool:
    """`true` or `false` in any case, nothing else."""
    text = query.get(name)
    if text is None:
        return default
    if text.lower() not in ("true", "false"):
        raise refusal("INVALID_QUERY_PARAMETER", name, "true or false")
    return text.lower() == "true"


def parse_number(query: Query, name: str, *, default: int, highest: int | None = None) -> int:
    """An integer from 1 to `highest`."""
    text = query.get(name)
    if text is None:
        return default
    number = int(text) if _NUMBER.fullmatch(text) else 0
    if number < 1 or (highest is not None and number > highest):
        expected = "an integer of at least 1" if highest is None else f"an integer from 1 to {highest}"
        raise refusal("INVALID_QUERY_PARAMETER", name, expected)
    return number


def parse_presentation(query: Query) -> Presentation:
    """Raises the refusal for a flag that is neither true nor false."""
    return Presentation(
        pretty=parse_boolean(query, "pretty", default=False),
        envelope=parse_boolean(query, "envelope", default=False),
    )


def guess_presentation(query: Query) -> Presentation:
    """As `parse_presentation`, for answers sent before the query was judged: a bad flag counts as not sent."""

    def is_true(name: str) -> bool:
        return (query.get(name) or "").lower() == "true"

    return Presentation(pretty=is_true("pretty"), envelope=is_true("envelope"))


def parse_page(query: Query) -> Page:
    """Raises the refusal for a parameter out of its range."""
    return Page(
        number=parse_number(query, "pageNum", default=1),
        items_per_page=parse_number(
            query, "itemsPerPage", default=ITEMS_PER_PAGE, highest=ITEMS_PER_PAGE_MAX
        ),
        include_count=parse_boolean(query, "includeCount", default=True),
    )


def parse_id_parameter(query: Query, name: str) -> str | None:
    """A 24-hex id, or None where it was not sent."""
    text = query.get(name)
    if text is not None and not is_id(text):
        raise refusal("INVALID_QUERY_PARAMETER", name, "24 hexadecimal digits")
    return text


def parse_choice(query: Query, name: str, *, choices: Sequence[str], default: str) -> str:
    """One of `choices`, in any case."""
    text = query.get(name)
    if text is None:
        return default
    if text.lower() not in choices:
        raise refusal("INVALID_QUERY_PARAMETER", name, "one of " + ", ".join(choices))
    return text.lower()
