"""The OpenAPI document of the whole API, made from the table of operations and the types of its documents.

Made once and kept: nothing in it depends on a request. `envelope=true` has its own shapes, so every answer is either the
plain document or the wrapped one.
"""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from pydantic import TypeAdapter

from ebbtide import __version__
from ebbtide.api.families import JSON_TYPE, Family
from ebbtide.api.openapi.documents import Error, Link
from ebbtide.api.openapi.facts import Facts, facts_of
from ebbtide.api.openapi.requests import DryRun, Nothing
from ebbtide.api.openapi.unlisted import UNLISTED_PATHS
from ebbtide.api.operations import Need, Operation, Scope
from ebbtide.api.queries import ITEMS_PER_PAGE, ITEMS_PER_PAGE_MAX
from ebbtide.api.table import OPERATIONS

Schema = dict[str, Any]

_REFERENCE = "#/components/schemas/{model}"
_TAGS = {
    Family.ATLAS: "Atlas",
    Family.ATLAS_V2: "Atlas, second version",
    Family.CLOUD: "Cloud and Ops Manager",
    Family.OWN: "Ebbtide",
}
_NEEDS = {
    Need.READ: "",
    Need.WRITE: "Needs `GROUP_BACKUP_ADMIN` or `GROUP_OWNER`.",
    Need.OWN: "Needs `GROUP_OWNER`.",
    Need.SURVEY: "Needs `GROUP_BACKUP_ADMIN`, `GROUP_OWNER` or a global role.",
    Need.RULE: "Needs `GLOBAL_OWNER`.",
}
_REFUSALS = {
    400: "Query or body are not as they must be.",
    401: "Nobody is logged in, or the caller lacks a role.",
    403: "The caller's address is not on the access list.",
    404: "Something that the path names does not exist.",
    405: "The path does not take this method.",
    409: "The state of something does not allow it.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    429: "Too many calls.",
    500: "The service failed.",
}
_OF_BODIES = {409, 413, 415}
_ID_SEGMENTS = {"groupId", "clusterId", "snapshotId", "jobId", "checkpointId"}

_BOOLEAN: Schema = {"type": "boolean", "default": False}
_PRESENTATION: dict[str, Schema] = {"pretty": _BOOLEAN, "envelope": _BOOLEAN}
_PAGING: dict[str, Schema] = {
    "pageNum": {"type": "integer", "minimum": 1, "maximum": 999_999_999, "default": 1},
    "itemsPerPage": {
        "type": "integer",
        "minimum": 1,
        "maximum": ITEMS_PER_PAGE_MAX,
        "default": ITEMS_PER_PAGE,
    },
    "includeCount": {"type": "boolean", "default": True},
}


class _Schemas:
    """Types to schemas; what has a name goes to the components once."""

    def __init__(self) -> None:
        self.components: dict[str, Schema] = {}

    def of(self, kind: Any, *, is_request: bool = False) -> Schema:
        """The schema of a type. Bodies also take null for what need not be sent."""
        schema = TypeAdapter(kind).json_schema(mode="serialization", ref_template=_REFERENCE)
        for name, part in schema.pop("$defs", {}).items():
            self.components[name] = _closed(part, is_request=is_request)
        if "properties" in schema:
            name = str(schema["title"])
            self.components[name] = _closed(schema, is_request=is_request)
            return {"$ref": _REFERENCE.format(model=name)}
        return _closed(schema, is_request=is_request)


def _closed(schema: Schema, *, is_request: bool) -> Schema:
    """An object that has what it names and nothing else."""
    if "properties" not in schema:
        return schema
    required = set(schema.get("required", ()))
    properties = {
        name: _untitled(part)
        if name in required or not is_request
        else {"anyOf": [_untitled(part), {"type": "null"}]}
        for name, part in schema["properties"].items()
    }
    return {**schema, "properties": properties, "additionalProperties": False}


def _untitled(schema: Schema) -> Schema:
    """Without the title that is made of the property's name and says nothing."""
    return {name: value for name, value in schema.items() if name != "title"}


@cache
def describe(server_url: str = "/") -> Mapping[str, Any]:
    """The document, for a service at `server_url`."""
    schemas = _Schemas()
    paths: dict[str, Schema] = {}
    for operation in OPERATIONS:
        path = operation.path.replace(":path}", "}")
        paths.setdefault(path, {})[operation.method.lower()] = _operation(operation, schemas)
    refusals = _refusals(schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Ebbtide",
            "version": __version__,
            "description": "Backup and restore for self-managed MongoDB: one set of rules in four families.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": server_url}],
        "tags": [{"name": name} for name in [*_TAGS.values(), "Service"]],
        "security": [{"digest": []}, {"serviceAccount": []}],
        "paths": {**paths, **UNLISTED_PATHS},
        "components": {
            "schemas": dict(sorted(schemas.components.items())),
            "responses": refusals,
            "securitySchemes": {
                "digest": {"type": "http", "scheme": "digest"},
                "clientSecret": {"type": "http", "scheme": "basic"},
                "serviceAccount": {
                    "type": "oauth2",
                    "flows": {"clientCredentials": {"tokenUrl": "/api/oauth/token", "scopes": {}}},
                },
            },
        },
    }


def _operation(operation: Operation, schemas: _Schemas) -> Schema:
    facts = facts_of(operation)
    summary, text = _words(operation)
    described: Schema = {
        "operationId": operation.name,
        "tags": [_TAGS[operation.family]],
        "summary": summary,
        "parameters": [*_path_parameters(operation), *_query_parameters(operation, facts)],
        "responses": _responses(operation, facts, schemas),
    }
    if text:
        described["description"] = text
    if operation.takes_body:
        described["requestBody"] = _request_body(operation, facts, schemas)
    return described


def _words(operation: Operation) -> tuple[str, str]:
    """The first line that the handler says of itself, and all else there is to say."""
    said = re.sub(r"[ \n]+", " ", operation.handler.__doc__ or "").strip()
    first, _, rest = said.partition(". ")
    listed = "The caller's address must be on its access list." if operation.needs_listed_address else ""
    title = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", operation.name).capitalize()
    return first.rstrip(".") or title, " ".join(filter(None, (rest, _NEEDS[operation.need], listed)))


def _path_parameters(operation: Operation) -> Iterable[Schema]:
    for name in re.findall(r"{(\w+)", operation.path):
        schema: Schema = {"type": "string", "minLength": 1}
        if name in _ID_SEGMENTS:
            schema = {"type": "string", "pattern": "^[0-9a-f]{24}$"}
        yield {"name": name, "in": "path", "required": True, "schema": schema}


def _query_parameters(operation: Operation, facts: Facts) -> Iterable[Schema]:
    parameters = {
        **_PRESENTATION,
        **(_PAGING if operation.is_list else {}),
        **(facts.query or {}),
    }
    for name, schema in parameters.items():
        yield {"name": name, "in": "query", "required": False, "schema": schema}


def _request_body(operation: Operation, facts: Facts, schemas: _Schemas) -> Schema:
    schema: Schema = (
        {"type": "object"} if facts.request is None else schemas.of(facts.request, is_request=True)
    )
    return {
        "required": facts.request is not None and not _may_be_empty(facts.request),
        "content": {operation.family.media_type: {"schema": schema}},
    }


def _may_be_empty(request: Any) -> bool:
    return request in (Nothing, DryRun)


def _responses(operation: Operation, facts: Facts, schemas: _Schemas) -> Schema:
    responses: Schema = {str(facts.status): _success(operation, facts, schemas)}
    for status in _REFUSALS:
        if status in _OF_BODIES and operation.method == "GET":
            continue
        if status == 404 and operation.scope is Scope.SERVICE and "{" not in operation.path:
            continue
        responses[str(status)] = {"$ref": f"#/components/responses/{status}"}
    return responses


def _refusals(schemas: _Schemas) -> Schema:
    """The refusals, which look the same wherever they come from."""
    error = schemas.of(Error)
    content = {JSON_TYPE: {"schema": {"anyOf": [error, _wrapped(error)]}}}
    return {str(status): {"description": text, "content": content} for status, text in _REFUSALS.items()}


def _success(operation: Operation, facts: Facts, schemas: _Schemas) -> Schema:
    if facts.answer is None:
        return {"description": "Done; there is no body."}
    entity = schemas.of(facts.answer)
    if facts.is_bare_array:
        schema: Schema = {
            "anyOf": [{"type": "array", "items": entity}, _wrapped({"type": "array", "items": entity})]
        }
    elif operation.is_list or facts.is_list:
        schema = _list_of(entity, schemas)
    else:
        schema = {"anyOf": [entity, _wrapped(entity)]}
    return {"description": "Done.", "content": {operation.family.media_type: {"schema": schema}}}


def _list_of(entity: Schema, schemas: _Schemas) -> Schema:
    """A page of a list; `status` with `envelope=true`."""
    return {
        "type": "object",
        "properties": {
            "results": {"type": "array", "items": entity},
            "links": {"type": "array", "items": schemas.of(Link)},
            "totalCount": {"type": "integer", "minimum": 0},
            "status": {"type": "integer"},
        },
        "required": ["results", "links"],
        "additionalProperties": False,
    }


def _wrapped(schema: Schema) -> Schema:
    """A document as `envelope=true` has it."""
    return {
        "type": "object",
        "properties": {"status": {"type": "integer"}, "content": schema},
        "required": ["status", "content"],
        "additionalProperties": False,
    }
