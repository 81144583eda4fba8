"""`/api/openapi.json`, and the same to read: `/api/docs`, a page without scripts that needs nothing from elsewhere.

Both are open: they tell what any copy of Ebbtide can do, and nothing of this one but its address.
"""

import html
import json
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response

from ebbtide.api.openapi.description import describe

OPENAPI_PATH = "/api/openapi.json"
DOCS_PATH = "/api/docs"
STYLE_PATH = "/api/docs.css"

_POLICY = "; ".join(
    (
        "default-src 'none'",
        "style-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
summary { cursor: pointer; padding: .3rem 0; }
code, pre { font-family: ui-monospace, monospace; font-size: .9em; }
pre { overflow-x: auto; padding: .6rem; background: #8881; }
.method { display: inline-block; min-width: 4rem; font-weight: 600; }
.said { opacity: .75; }
table { border-collapse: collapse; }
td, th { text-align: left; padding: .1rem 1rem .1rem 0; vertical-align: top; }
nav a { margin-right: 1rem; }
@media (prefers-color-scheme: dark) { body { background: #161616; color: #eee; } a { color: #8cf; } }
"""

Schema = Mapping[str, Any]


class Pages:
    """The three endpoints of one application."""

    def __init__(self, external_url: str) -> None:
        self._external_url = external_url

    async def openapi(self, _: Request) -> Response:
        content = await anyio.to_thread.run_sync(_openapi_bytes, self._external_url)
        return Response(content, headers={**_HEADERS, "Content-Type": "application/json"})

    async def docs(self, _: Request) -> Response:
        content = await anyio.to_thread.run_sync(_page_bytes, self._external_url)
        headers = {**_HEADERS, "Content-Security-Policy": _POLICY, "Referrer-Policy": "no-referrer"}
        return Response(content, headers={**headers, "Content-Type": "text/html; charset=utf-8"})

    async def style(self, _: Request) -> Response:
        return Response(_STYLE, headers={**_HEADERS, "Content-Type": "text/css; charset=utf-8"})


@cache
def _openapi_bytes(external_url: str) -> bytes:
    return json.dumps(describe(external_url), separators=(",", ":")).encode()


@cache
def _page_bytes(external_url: str) -> bytes:
    return render_page(describe(external_url)).encode()


def render_page(document: Schema) -> str:
    """The page of an OpenAPI document. Every text of it is escaped."""
    tags = [tag["name"] for tag in document["tags"]]
    links = "".join(f'<a href="#{_anchor(tag)}">{_text(tag)}</a>' for tag in tags)
    sections = "".join(_section(document, tag) for tag in tags)
    schemas = "".join(_schema(name, schema) for name, schema in document["components"]["schemas"].items())
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f'<title>Ebbtide API</title><link rel="stylesheet" href="{STYLE_PATH}"></head><body>'
        f"<h1>Ebbtide API</h1><p>{_text(document['info']['description'])} "
        f'Version {_text(document["info"]["version"])}; <a href="{OPENAPI_PATH}">as OpenAPI</a>.</p>'
        f'<nav>{links}<a href="#documents">Documents</a></nav>{sections}'
        f'<h2 id="documents">Documents</h2>{schemas}</body></html>'
    )


def _section(document: Schema, tag: str) -> str:
    rows = [
        _operation(method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if tag in operation["tags"]
    ]
    return f'<h2 id="{_anchor(tag)}">{_text(tag)}</h2>{"".join(rows)}'


def _operation(method: str, path: str, operation: Schema) -> str:
    parameters = "".join(_parameter(parameter) for parameter in operation.get("parameters", ()))
    body = operation.get("requestBody")
    taken = f"<h4>Body</h4>{_content(body['content'])}" if body else ""
    answers = "".join(_answer(status, answer) for status, answer in operation["responses"].items())
    said = f"<p>{_text(operation['description'])}</p>" if "description" in operation else ""
    return (
        f"<details><summary><span class=method>{_text(method.upper())}</span> <code>{_text(path)}</code> "
        f"<span class=said>{_text(operation['summary'])}</span></summary>{said}"
        f"<table>{parameters}</table>{taken}<h4>Answers</h4><table>{answers}</table></details>"
    )


def _parameter(parameter: Schema) -> str:
    schema = json.dumps(parameter["schema"])
    return (
        f"<tr><td><code>{_text(parameter['name'])}</code></td><td>{_text(parameter['in'])}</td>"
        f"<td><code>{_text(schema)}</code></td></tr>"
    )


def _answer(status: str, answer: Schema) -> str:
    shown = _content(answer["content"]) if "content" in answer else _text(answer.get("description", ""))
    if "$ref" in answer:
        shown = 'a refusal: <a href="#Error">Error</a>'
    return f"<tr><td>{_text(status)}</td><td>{shown}</td></tr>"


def _content(content: Schema) -> str:
    shown = []
    for media_type, told in content.items():
        names = sorted(set(_references(told["schema"])))
        links = ", ".join(f'<a href="#{_text(name)}">{_text(name)}</a>' for name in names)
        shown.append(f"<code>{_text(media_type)}</code> {links}")
    return "<br>".join(shown)


def _references(schema: Any) -> Iterable[str]:
    """The names of the documents that a schema mentions."""
    if isinstance(schema, Mapping):
        if "$ref" in schema:
            yield str(schema["$ref"]).rsplit("/", 1)[1]
        for part in schema.values():
            yield from _references(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from _references(part)


def _schema(name: str, schema: Schema) -> str:
    shown = {key: value for key, value in schema.items() if key not in ("title", "description")}
    said = _text(schema.get("description", ""))
    return (
        f'<details id="{_text(name)}"><summary><code>{_text(name)}</code> <span class=said>{said}</span>'
        f"</summary><pre>{_text(json.dumps(shown, indent=2))}</pre></details>"
    )


def _anchor(tag: str) -> str:
    return "".join(letter for letter in tag.lower() if letter.isalnum())


def _text(text: object) -> str:
    return html.escape(str(text))
