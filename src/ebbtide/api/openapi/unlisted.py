"""Paths beside the families: tokens, downloads, and what watches the service. They have rules of their own, told here."""

from typing import Any

Schema = dict[str, Any]

_TAG = ["Service"]
_OPEN: Schema = {"tags": _TAG, "security": []}
_TEXT: Schema = {"text/plain": {"schema": {"type": "string"}}}
_OAUTH_ERROR: Schema = {
    "type": "object",
    "properties": {"error": {"type": "string"}, "error_description": {"type": "string"}},
    "required": ["error", "error_description"],
}
_READINESS: Schema = {
    "type": "object",
    "properties": {
        "ok": {"type": "boolean"},
        **{name: {"type": "string"} for name in ("catalog", "worker", "repository")},
    },
    "required": ["ok", "catalog", "worker", "repository"],
}
_TOKEN: Schema = {
    "type": "object",
    "properties": {
        "access_token": {"type": "string"},
        "expires_in": {"type": "integer"},
        "token_type": {"type": "string", "enum": ["Bearer"]},
    },
    "required": ["access_token", "expires_in", "token_type"],
}


def _json(description: str, schema: Schema) -> Schema:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _form(*required: str, **fields: Schema) -> Schema:
    schema = {"type": "object", "properties": fields, "required": list(required)}
    return {"required": True, "content": {"application/x-www-form-urlencoded": {"schema": schema}}}


def _oauth(name: str, summary: str, *, body: Schema, success: Schema) -> Schema:
    refusals = {str(status): _json("Refused.", _OAUTH_ERROR) for status in (400, 401, 403, 413, 429, 500)}
    return {
        "post": {
            "operationId": name,
            "tags": _TAG,
            "summary": summary,
            "security": [{"clientSecret": []}],
            "requestBody": body,
            "responses": {"200": success, **refusals},
        }
    }


def _download(name: str, summary: str, parameters: list[str]) -> Schema:
    binary = {"application/gzip": {"schema": {"type": "string", "format": "binary"}}}
    outcomes = {
        "200": {"description": "The whole archive.", "content": binary},
        "206": {"description": "The range that was asked for.", "content": binary},
        "404": {"description": "No such link."},
        "410": {"description": "The link is over; the document says why."},
        "416": {"description": "The range begins behind the end."},
        "429": {"description": "Too many transfers of this link at once."},
    }
    return {
        "get": {
            "operationId": name,
            **_OPEN,
            "summary": summary,
            "parameters": [
                {"name": parameter, "in": "path", "required": True, "schema": {"type": "string"}}
                for parameter in parameters
            ],
            "responses": outcomes,
        }
    }


UNLISTED_PATHS: dict[str, Schema] = {
    "/api/oauth/token": _oauth(
        "createToken",
        "A token for a service account's secret",
        body=_form("grant_type", grant_type={"type": "string", "enum": ["client_credentials"]}),
        success=_json("The token.", _TOKEN),
    ),
    "/api/oauth/revoke": _oauth(
        "revokeToken",
        "The end of a token",
        body=_form("token", token={"type": "string"}, token_type_hint={"type": "string"}),
        success={"description": "It is no token any more, if it was one."},
    ),
    "/backup/restore/v2/pull/{jobId}/{key}/{fileName}": _download(
        "download", "A download whose key is in its path", ["jobId", "key", "fileName"]
    ),
    "/backup/restore/v3/pull/{jobId}/{fileName}": _download(
        "downloadWithHeader", "A download whose key is in `Authorization`", ["jobId", "fileName"]
    ),
    "/health/live": {
        "get": {
            "operationId": "isLive",
            **_OPEN,
            "summary": "Whether the process answers",
            "responses": {"200": {"description": "It does.", "content": _TEXT}},
        }
    },
    "/health/ready": {
        "get": {
            "operationId": "isReady",
            **_OPEN,
            "summary": "Whether the service can work",
            "responses": {
                "200": _json("It can.", _READINESS),
                "503": _json("It cannot; the document says what is missing.", _READINESS),
            },
        }
    },
    "/metrics": {
        "get": {
            "operationId": "getMetrics",
            "tags": _TAG,
            "summary": "Metrics in Prometheus' text format",
            "responses": {
                "200": {"description": "Metrics.", "content": _TEXT},
                "401": {"description": "The caller's address may not, and nobody is logged in."},
                "403": {"description": "The caller's address is not on its access list."},
            },
        }
    },
}
