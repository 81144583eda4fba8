"""Records to catalog documents and back: `id` becomes `_id`, everything else keeps its name."""

from typing import Any, TypeVar, cast

from pydantic import TypeAdapter

R = TypeVar("R")


_adapters: dict[Any, TypeAdapter[Any]] = {}


def _adapter(record_type: Any) -> TypeAdapter[Any]:
    # Building one takes milliseconds; the record types are few.
    adapter = _adapters.get(record_type)
    if adapter is None:
        adapter = _adapters[record_type] = TypeAdapter(record_type)
    return adapter


def to_document(record: Any) -> dict[str, Any]:
    """The document that holds `record`."""
    document: dict[str, Any] = _adapter(type(record)).dump_python(record)
    return {"_id": document.pop("id"), **document}


def to_value(value: Any) -> Any:
    """What a field of a document holds for `value` (a record inside a record, an enum, a list of either)."""
    if isinstance(value, list | tuple):
        return [to_value(item) for item in value]
    return _adapter(type(value)).dump_python(value)


def from_document(record_type: type[R], document: dict[str, Any]) -> R:
    """The record in `document`. Raises pydantic's ValidationError for one of another shape."""
    fields = dict(document)
    fields["id"] = fields.pop("_id")
    return cast(R, _adapter(record_type).validate_python(fields))
