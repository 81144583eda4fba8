"""Answers: documents to bytes, with the envelope and indentation that the caller asked for."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from pydantic_core import PydanticSerializationError, to_json
from starlette.responses import Response

from ebbtide.api.families import JSON_TYPE, Family
from ebbtide.api.queries import Presentation
from ebbtide.api.refusals import Refusal

# Answers hold links that are as good as passwords, and nothing in them is for a browser to interpret.
_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class Shape(Enum):
    """How the envelope wraps a document."""

    LIST = "list"  # gains `status` beside `results`
    ENTITY = "entity"  # becomes {"status", "content"}


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a handler returns. `document` is a JSON object, or an array where a family has a bare one."""

    document: Any
    shape: Shape = Shape.ENTITY
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


def wrap(
    document: Mapping[str, Any] | Sequence[Mapping[str, Any]], *, shape: Shape, status: int
) -> dict[str, Any]:
    """The enveloped form of a document."""
    if shape is Shape.LIST and isinstance(document, Mapping):
        return {"status": status, **document}
    return {"status": status, "content": document}


def encode(document: Mapping[str, Any] | Sequence[Mapping[str, Any]], *, pretty: bool) -> bytes:
    """JSON in UTF-8. Lone surrogates, which UTF-8 cannot hold, become question marks."""
    try:
        # Several times as fast as the standard library, and stricter: it knows no lone surrogates.
        return to_json(document, indent=2 if pretty else None)
    except PydanticSerializationError:
        separators = None if pretty else (",", ":")
        text = json.dumps(document, indent=2 if pretty else None, separators=separators, ensure_ascii=False)
        return text.encode("utf-8", "replace")


def render(answer: Answer, presentation: Presentation, *, media_type: str = JSON_TYPE) -> Response:
    """The HTTP response of an answer; 204 has no body, whatever was asked for."""
    if answer.status == 204:
        return Response(status_code=204, headers={**_HEADERS, **answer.headers})
    document = (
        wrap(answer.document, shape=answer.shape, status=answer.status)
        if presentation.envelope
        else answer.document
    )
    return Response(
        encode(document, pretty=presentation.pretty),
        status_code=answer.status,
        headers={"Content-Type": media_type, **_HEADERS, **answer.headers},
    )


def render_refusal(refused: Refusal, presentation: Presentation, *, family: Family = Family.OWN) -> Response:
    """The HTTP response of a refusal; plain JSON in every family."""
    document = refused.document(names_bad_fields=family.names_bad_fields)
    return render(Answer(document=document, status=refused.status, headers=refused.headers), presentation)
