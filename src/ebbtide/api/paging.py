"""List documents and their links (contract section 3)."""

from collections.abc import Sequence
from typing import Any

from ebbtide.api.queries import Page, Query, encode_pairs


def plan_window(page: Page) -> tuple[int, int]:
    """(skip, limit) to ask the catalog for: one more than fits the page tells whether there is a next one."""
    return page.skip, page.items_per_page + 1


def list_document(
    *,
    href: str,
    query: Query,
    page: Page,
    entities: Sequence[dict[str, Any]],
    has_next: bool,
    total_count: int | None,
) -> dict[str, Any]:
    """The document of one page; `href` is the list's address without a query. `total_count` None leaves it out."""
    document: dict[str, Any] = {
        "results": list(entities),
        "links": page_links(href=href, query=query, page=page, has_next=has_next),
    }
    if total_count is not None:
        document["totalCount"] = total_count
    return document


def page_links(*, href: str, query: Query, page: Page, has_next: bool) -> list[dict[str, str]]:
    """`self` always, `previous` but on the first page, `next` but on the last.

    Each repeats the caller's own parameters, then the page and its size even where they were not sent.
    """
    own = [pair for pair in query.pairs if pair[0] not in ("pageNum", "itemsPerPage")]

    def link(rel: str, number: int) -> dict[str, str]:
        pairs = [*own, ("pageNum", str(number)), ("itemsPerPage", str(page.items_per_page))]
        return {"rel": rel, "href": f"{href}?{encode_pairs(pairs)}"}

    links = [link("self", page.number)]
    if page.number > 1:
        links.append(link("previous", page.number - 1))
    if has_next:
        links.append(link("next", page.number + 1))
    return links
