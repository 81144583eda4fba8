"""Reading JSON that somebody may have damaged or made up.

`Fields` wraps one decoded JSON object and hands out its values with their types and bounds checked. Every
problem is an IntegrityError that names the stored object and the field.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from ebbtide.errors import IntegrityError

INT_MAX = 2**63 - 1


class Fields:
    """One JSON object of the stored object `object_name`; `where` tells its place inside, for messages."""

    __slots__ = ("_values", "_where", "object_name")

    def __init__(self, values: object, *, object_name: str, where: str = "") -> None:
        if not isinstance(values, dict):
            raise IntegrityError(object_name, f"{where or 'the content'} is not a JSON object")
        self._values: dict[str, Any] = values
        self._where = where
        self.object_name = object_name

    def problem(self, name: str, expected: str) -> IntegrityError:
        return IntegrityError(self.object_name, f"{self._where}{name} is not {expected}")

    def names(self) -> set[str]:
        return set(self._values)

    def text(self, name: str, *, length_max: int = 1000) -> str:
        value = self._values.get(name)
        if not isinstance(value, str) or len(value) > length_max:
            raise self.problem(name, f"a text of at most {length_max} characters")
        return value

    def optional_text(self, name: str, *, length_max: int = 1000) -> str | None:
        return None if self._values.get(name) is None else self.text(name, length_max=length_max)

    def integer(self, name: str, *, maximum: int = INT_MAX) -> int:
        value = self._values.get(name)
        if type(value) is not int or not 0 <= value <= maximum:
            raise self.problem(name, f"an integer in 0 … {maximum}")
        return value

    def moment(self, name: str) -> datetime:
        try:
            return parse_moment(self.text(name, length_max=40))
        except ValueError:
            raise self.problem(name, "a time in UTC") from None

    def integers(self, name: str, *, count: int, maximum: int = INT_MAX) -> list[int]:
        values = self.items(name)
        if len(values) != count or any(type(v) is not int or not 0 <= v <= maximum for v in values):
            raise self.problem(name, f"{count} integers in 0 … {maximum}")
        return values

    def items(self, name: str) -> list[Any]:
        value = self._values.get(name)
        if not isinstance(value, list):
            raise self.problem(name, "a list")
        return value

    def iter_objects(self, name: str) -> Iterator["Fields"]:
        for index, value in enumerate(self.items(name)):
            yield Fields(value, object_name=self.object_name, where=f"{self._where}{name}[{index}].")

    def scalars(self, name: str) -> dict[str, str | int | bool | None]:
        """An object of texts, integers, booleans and nulls."""
        value = self._values.get(name)
        if not isinstance(value, dict) or not all(
            item is None or isinstance(item, str | int) for item in value.values()
        ):
            raise self.problem(name, "an object of plain values")
        return value


def parse_json(data: bytes, *, object_name: str) -> Fields:
    """The JSON object in `data`."""
    try:
        return Fields(json.loads(data), object_name=object_name)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(object_name, f"is not JSON: {error}") from None


def format_moment(moment: datetime) -> str:
    """UTC, ISO 8601, microseconds where there are any, ending in Z."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def parse_moment(text: str) -> datetime:
    """The aware UTC time of `format_moment`. Raises ValueError for anything else."""
    if not text.endswith("Z"):
        raise ValueError(text)
    return datetime.fromisoformat(text.removesuffix("Z")).replace(tzinfo=UTC)
