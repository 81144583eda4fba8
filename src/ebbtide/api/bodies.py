"""Request bodies: from bytes to checked values, every bad field named.

Bytes are judged as a whole first (size, type, JSON: the first fault ends it); fields are judged together, so
one answer names all that are wrong. `null` counts as not sent. Nothing of a body is kept that was not asked
for by name.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NoReturn

from ebbtide.api.families import Family
from ebbtide.api.refusals import Violation, refusal, refuse_fields, violation
from ebbtide.domain.ids import is_id

INT32_MAX = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class Body:
    """A body as received: `content` is None where it was larger than `bytes_max`."""

    content: bytes | None
    content_type: str
    bytes_max: int
    family: Family = Family.OWN


class _Object(dict[str, Any]):
    """A JSON object that knows which of its names came twice."""

    duplicates: tuple[str, ...] = ()


def _build_object(pairs: list[tuple[str, Any]]) -> _Object:
    built = _Object(pairs)
    if len(built) < len(pairs):
        names = [name for name, _ in pairs]
        built.duplicates = tuple(sorted({name for name in names if names.count(name) > 1}))
    return built


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a JSON number")


def parse_json(body: Body) -> Any:
    """The value of a body. Raises the refusals 413, 415, INVALID_JSON; a name given twice is a bad field."""
    if body.content is None:
        raise refusal("REQUEST_BODY_TOO_LARGE", str(body.bytes_max))
    media_type = body.content_type.partition(";")[0].strip().lower()
    if not body.family.takes(media_type):
        raise refusal("UNSUPPORTED_MEDIA_TYPE", media_type)
    try:
        value = json.loads(
            body.content.decode("utf-8"), object_pairs_hook=_build_object, parse_constant=_refuse_constant
        )
    except UnicodeDecodeError:
        raise refusal("INVALID_JSON", "it is not UTF-8") from None
    except RecursionError:
        raise refusal("INVALID_JSON", "it is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise refusal("INVALID_JSON", f"{error.msg}, line {error.lineno} column {error.colno}") from None
    except ValueError as error:
        raise refusal("INVALID_JSON", str(error).partition(";")[0]) from None
    duplicates = _check_tree(value)
    if duplicates:
        raise refuse_fields(
            [violation("INVALID_JSON_ATTRIBUTE", p, "the attribute once, not twice") for p in duplicates]
        )
    return value


def _check_tree(value: Any) -> list[str]:
    """Paths of names given twice. Raises INVALID_JSON for text that no UTF-8 can hold."""
    duplicates: list[str] = []
    waiting: list[tuple[str, Any]] = [("", value)]
    while waiting:
        path, node = waiting.pop()
        if isinstance(node, _Object):
            duplicates += [f"{path}{name}" for name in node.duplicates]
            waiting += [(f"{path}{name}.", child) for name, child in node.items()]
            waiting += [("", name) for name in node]
        elif isinstance(node, list):
            waiting += [(f"{path}{place}.", child) for place, child in enumerate(node)]
        elif isinstance(node, str) and any("\ud800" <= c <= "\udfff" for c in node):
            raise refusal("INVALID_JSON", "it holds half of a surrogate pair")
    return duplicates


def parse_object(body: Body, *, empty_is_object: bool = False) -> dict[str, Any]:
    """A body that must be a JSON object; with `empty_is_object` no body at all counts as `{}`."""
    if empty_is_object and body.content == b"":
        return {}
    value = parse_json(body)
    if not isinstance(value, dict):
        raise refusal("INVALID_JSON", "expected an object")
    return value


class Fields:
    """Reads the fields of one object, collecting what is wrong with them.

    Readers return None for a field that is absent, null or bad; `violations` then tells bad from absent.
    """

    def __init__(self, values: Mapping[str, Any], *, prefix: str = "") -> None:
        self._values = values
        self._prefix = prefix
        self.violations: list[Violation] = []

    def has(self, name: str) -> bool:
        return self._values.get(name) is not None

    def mentions(self, name: str) -> bool:
        """Whether it was sent at all, if only as null."""
        return name in self._values

    def raw(self, name: str) -> Any:
        """The value as it was sent; None where it was not."""
        return self._values.get(name)

    def path(self, name: str) -> str:
        return f"{self._prefix}{name}"

    def blame(self, code: str, name: str, *parameters: str) -> None:
        self.violations.append(violation(code, self.path(name), *parameters))

    def blame_missing_one_of(self, names: Iterable[str]) -> None:
        self.violations.append(
            violation("MISSING_ONE_OF_ATTRIBUTES", ", ".join(self.path(name) for name in names))
        )

    def require(self, name: str) -> None:
        if not self.has(name):
            self.blame("MISSING_ATTRIBUTE", name)

    def text(self, name: str) -> str | None:
        value = self._values.get(name)
        if value is None or isinstance(value, str):
            return value
        self.blame("INVALID_JSON_ATTRIBUTE", name, "a string")
        return None

    def boolean(self, name: str) -> bool | None:
        value = self._values.get(name)
        if value is None or isinstance(value, bool):
            return value
        self.blame("INVALID_JSON_ATTRIBUTE", name, "true or false")
        return None

    def date(self, name: str) -> datetime | None:
        """An ISO 8601 date or time; without a zone it is UTC. Whole seconds (contract section 1)."""
        text = self.text(name)
        if text is None:
            return None
        try:
            moment = datetime.fromisoformat(text)
            moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
        except (ValueError, OverflowError):
            self.blame("INVALID_ATTRIBUTE", name, "expected an ISO 8601 date such as 2018-12-01T00:00:00Z")
            return None
        if moment.microsecond:
            self.blame("FRACTIONAL_TIMESTAMP", name)
            return None
        return moment

    def identifier(self, name: str) -> str | None:
        value = self.text(name)
        if value is not None and not is_id(value):
            self.blame("INVALID_ATTRIBUTE", name, "it must be 24 hexadecimal digits")
            return None
        return value

    def integer(self, name: str, *, highest: int = INT32_MAX, or_text: bool = False) -> int | None:
        """An integer of at most `highest`; 24.0 is one too. With `or_text` also its decimal digits as a string."""
        value = self._values.get(name)
        if value is None:
            return None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if or_text and isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or abs(value) > highest:
            self.blame("INVALID_JSON_ATTRIBUTE", name, f"an integer of at most {highest}")
            return None
        return value

    def positive(self, name: str, *, highest: int = INT32_MAX, or_text: bool = False) -> int | None:
        value = self.integer(name, highest=highest, or_text=or_text)
        if value is not None and value < 1:
            self.blame("ATTRIBUTE_NEGATIVE_OR_ZERO", name)
            return None
        return value

    def object(self, name: str) -> "Fields":
        """The fields of an object inside this one; of an empty one where it is absent or bad."""
        value = self._values.get(name)
        if value is not None and not isinstance(value, dict):
            self.blame("INVALID_JSON_ATTRIBUTE", name, "an object")
            value = None
        return Fields(value or {}, prefix=f"{self.path(name)}.")

    def refuse_read_only(self, names: Iterable[str]) -> None:
        for name in names:
            if self.has(name):
                self.blame("ATTRIBUTE_READ_ONLY", name)

    def refuse_unknown(self, known: Sequence[str]) -> None:
        for name in self._values:
            if name not in known:
                self.blame("INVALID_ATTRIBUTE", name, "no attribute of this name is known here")


def raise_violations(*violations: Sequence[Violation]) -> None:
    """Raise one refusal for all bad fields, if there are any."""
    found = [v for group in violations for v in group]
    if found:
        raise refuse_fields(found)
