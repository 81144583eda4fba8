"""Answers that are one page of a list."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from ebbtide.api.operations import Call
from ebbtide.api.paging import list_document
from ebbtide.api.queries import Page
from ebbtide.api.responses import Answer, Shape
from ebbtide.api.wire import Document

T = TypeVar("T")


def list_answer(
    call: Call,
    *,
    href: str,
    found: Sequence[T],
    to_document: Callable[[T], Document],
    count: Callable[[], int],
) -> Answer:
    """The page that was asked for.

    `found` is what `paging.plan_window` says to fetch: one more than fits tells that there is a next page. `count`, of
    the whole list, is called only if the caller wants it and the page itself does not tell.
    """
    page = call.page
    document = list_document(
        href=href,
        query=call.query,
        page=page,
        entities=[to_document(record) for record in found[: page.items_per_page]],
        has_next=len(found) > page.items_per_page,
        total_count=_total(page, found, count) if page.include_count else None,
    )
    return Answer(document=document, shape=Shape.LIST)


def _total(page: Page, found: Sequence[Any], count: Callable[[], int]) -> int:
    """The length of the whole list; a page that reaches its end tells it by itself."""
    if len(found) > page.items_per_page or (page.skip and not found):
        return count()
    return page.skip + len(found)


def slice_answer(
    call: Call, *, href: str, records: Sequence[T], to_document: Callable[[T], Document]
) -> Answer:
    """As `list_answer`, of a short list that is in memory whole."""
    window = records[call.page.skip : call.page.skip + call.page.items_per_page + 1]
    return list_answer(call, href=href, found=window, to_document=to_document, count=lambda: len(records))
