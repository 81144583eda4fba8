"""The reference beside the repository: the OpenAPI extract with its patch, and the fixtures. Nothing of it is copied."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonpatch
import pytest

REFERENCE = Path(__file__).resolve().parents[2].parent / "shared" / "reference"
EXTRACT = "atlas-legacy-backup.openapi.json"
DEFECTS = "atlas-legacy-backup.known-defects.json"


def load_json(name: str) -> Any:
    """A file of the reference; fails with what to do where it is absent."""
    path = REFERENCE / name
    if not path.is_file():
        pytest.fail(
            f"conformance needs the reference beside the repository: there is no ../shared/reference/{name}",
            pytrace=False,
        )
    return json.loads(path.read_text(encoding="utf-8"))


@cache
def openapi() -> dict[str, Any]:
    """The extract with its known defects put right."""
    document: dict[str, Any] = jsonpatch.apply_patch(load_json(EXTRACT), load_json(DEFECTS))
    return document


def schema_of(name: str) -> dict[str, Any]:
    """A component schema as JSON Schema, references resolved inside it, unknown properties refused."""
    components = {n: to_json_schema(s) for n, s in openapi()["components"]["schemas"].items()}
    return {"$ref": f"#/components/schemas/{name}", "components": {"schemas": components}}


def to_json_schema(node: Any) -> Any:
    """OpenAPI 3.0 to JSON Schema: `nullable` becomes a type, and objects allow only what they name."""
    if isinstance(node, list):
        return [to_json_schema(item) for item in node]
    if not isinstance(node, dict):
        return node
    converted = {key: to_json_schema(value) for key, value in node.items() if key != "nullable"}
    if node.get("nullable") and isinstance(node.get("type"), str):
        converted["type"] = [node["type"], "null"]
    if isinstance(node.get("properties"), dict) and "additionalProperties" not in node:
        converted["additionalProperties"] = False
    return converted


def response_schema(path: str, method: str, status: int) -> dict[str, Any]:
    """The schema of an operation's answer; a status that the extract has no content for is an error document."""
    operation = openapi()["paths"][path][method.lower()]
    response = operation["responses"].get(str(status), {})
    while "$ref" in response:
        name = response["$ref"].rsplit("/", 1)[1]
        response = openapi()["components"]["responses"][name]
    content = response.get("content", {}).get("application/json", {})
    reference = content.get("schema", {}).get("$ref", "#/components/schemas/ApiError")
    return schema_of(reference.rsplit("/", 1)[1])
