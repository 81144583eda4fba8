"""Ranges of a download."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.api.ranges import Part, Unsatisfiable, Whole, is_listed, resolve_range

ETAG = '"e"'


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, Whole()),
        ("bytes=0-0", Part(0, 1)),
        ("bytes=0-", Part(0, 10)),
        ("Bytes=9-100", Part(9, 10)),
        ("bytes=-3", Part(7, 10)),
        ("bytes=-30", Part(0, 10)),
        ("bytes=-0", Unsatisfiable()),
        ("bytes=10-", Unsatisfiable()),
        ("bytes=3-2", Whole()),
        ("bytes=0-1,3-4", Whole()),
        ("bytes=-", Whole()),
        ("bytes=a-b", Whole()),
        ("bytes=\u0661-2", Whole()),
        ("items=0-1", Whole()),
    ],
)
def test_ranges(header: str | None, expected: object) -> None:
    assert expected == resolve_range(header, if_range=None, etag=ETAG, length_bytes=10)


def test_if_range_must_be_the_strong_tag() -> None:
    def resolve(if_range: str) -> object:
        return resolve_range("bytes=1-2", if_range=if_range, etag=ETAG, length_bytes=10)

    assert Part(1, 3) == resolve(ETAG)
    assert [Whole()] * 2 == [resolve('W/"e"'), resolve("Wed, 21 Oct 2015 07:28:00 GMT")]


@given(st.text(max_size=40), st.integers(1, 10**12))
def test_a_part_is_never_empty_and_never_outside(text: str, length: int) -> None:
    for header in (text, f"bytes={text}"):
        asked = resolve_range(header, if_range=None, etag=ETAG, length_bytes=length)
        if isinstance(asked, Part):
            assert 0 <= asked.first < asked.end <= length


def test_lists_of_tags() -> None:
    assert is_listed(ETAG, 'W/"x", "e"', weakly=False)
    assert is_listed(ETAG, "*", weakly=False)
    assert [is_listed(ETAG, 'W/"e"', weakly=weakly) for weakly in (True, False)] == [True, False]
    assert not is_listed(ETAG, None, weakly=True)
