"""Query parameters, pages and their links."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.api.paging import list_document, page_links, plan_window
from ebbtide.api.queries import (
    Page,
    guess_presentation,
    parse_choice,
    parse_id_parameter,
    parse_page,
    parse_presentation,
    parse_query,
)
from ebbtide.api.refusals import Refusal


@pytest.mark.parametrize(
    ("text", "page"),
    [
        ("", (1, 100, True)),
        ("pageNum=2&itemsPerPage=500", (2, 500, True)),
        ("pageNum=1&pageNum=3&includeCount=False", (3, 100, False)),
        ("other=x&PAGENUM=x", (1, 100, True)),
    ],
)
def test_pages(text: str, page: tuple[int, int, bool]) -> None:
    parsed = parse_page(parse_query(text))
    assert page == (parsed.number, parsed.items_per_page, parsed.include_count)


@pytest.mark.parametrize(
    "text",
    [
        *("pageNum=0", "pageNum=-1", "pageNum=", "pageNum=1.0", "pageNum=%D9%A1", "pageNum=9999999999"),
        *("itemsPerPage=0", "itemsPerPage=501", "includeCount=1", "includeCount="),
    ],
)
def test_bad_pages_are_refused(text: str) -> None:
    with pytest.raises(Refusal) as caught:
        parse_page(parse_query(text))
    assert (caught.value.status, caught.value.code) == (400, "INVALID_QUERY_PARAMETER")
    assert text.split("=")[0] == caught.value.parameters[0]


def test_presentation_is_judged_strictly_and_guessed_leniently() -> None:
    query = parse_query("pretty=TRUE&envelope=maybe")
    with pytest.raises(Refusal):
        parse_presentation(query)
    assert (guess_presentation(query).pretty, guess_presentation(query).envelope) == (True, False)


def test_ids_and_choices() -> None:
    assert parse_id_parameter(parse_query(""), "batchId") is None
    with pytest.raises(Refusal):
        parse_id_parameter(parse_query("batchId=A" + "0" * 23), "batchId")
    assert parse_choice(parse_query("completed=ALL"), "completed", choices=("all",), default="x") == "all"


@given(st.binary(max_size=100))
def test_any_query_string_can_be_read(raw: bytes) -> None:
    query = parse_query(raw.decode("latin-1"))
    page = Page(number=1, items_per_page=10, include_count=True)
    for link in page_links(href="http://x/y", query=query, page=page, has_next=True):
        assert link["href"].isascii()


@given(st.integers(1, 40), st.integers(1, 10), st.integers(0, 60))
def test_pages_cover_a_list_without_gap_or_overlap(number: int, size: int, length: int) -> None:
    page = Page(number=number, items_per_page=size, include_count=True)
    skip, limit = plan_window(page)
    found = list(range(length))[skip : skip + limit]
    document = list_document(
        href="h",
        query=parse_query(""),
        page=page,
        entities=[{"n": n} for n in found[:size]],
        has_next=len(found) > size,
        total_count=length,
    )
    rels = [link["rel"] for link in document["links"]]
    assert ("next" in rels) is (number * size < length)
    assert ("previous" in rels) is (number > 1)
    assert [{"n": n} for n in range((number - 1) * size, min(length, number * size))] == document["results"]


def test_links_repeat_the_callers_own_parameters() -> None:
    query = parse_query("pretty=true&name=a%20b%26&pageNum=2")
    page = parse_page(query)
    links = page_links(href="h", query=query, page=page, has_next=False)
    own = "h?pretty=true&name=a%20b%26"
    assert [f"{own}&pageNum=2&itemsPerPage=100", f"{own}&pageNum=1&itemsPerPage=100"] == [
        link["href"] for link in links
    ]
