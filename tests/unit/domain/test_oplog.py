"""What slices of an oplog cover, which of them a reader takes, and where something is missing."""

import itertools
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.domain.oplog import (
    OplogGap,
    OplogGapError,
    OplogRange,
    OplogSlice,
    choose_slices,
    covered_ranges,
    find_slice,
    gap_ends,
    newest_slice,
    update_gaps,
)
from ebbtide.domain.optime import OplogTimestamp, OpTime

NOW = datetime(2026, 5, 1, tzinfo=UTC)


def at(seconds: int, term: int = 1) -> OpTime:
    return OpTime(OplogTimestamp(seconds, 1), term)


def ts(seconds: int) -> OplogTimestamp:
    return OplogTimestamp(seconds, 1)


def piece(first: int, last: int, *, after: int | None, term: int = 1) -> OplogSlice:
    """A slice of an oplog with one entry each second."""
    return OplogSlice(
        predecessor=None if after is None else at(after, term),
        first=at(first, term),
        last=at(last, term),
        entry_count=last - first + 1,
        plain_bytes=(last - first + 1) * 100,
        stored_bytes=100,
    )


def ranges(*slices: OplogSlice) -> list[tuple[int, int]]:
    return [(r.first.timestamp.seconds, r.last.timestamp.seconds) for r in covered_ranges(slices)]


CHAIN = (piece(1, 5, after=None), piece(6, 9, after=5), piece(10, 20, after=9))


@pytest.mark.parametrize(
    ("slices", "expected"),
    [
        ([], []),
        ([piece(3, 5, after=None)], [(3, 5)]),
        (CHAIN, [(1, 20)]),
        # Whatever the order of the listing.
        (CHAIN[::-1], [(1, 20)]),
        # Trimmed at the front: the predecessor of the first one is gone.
        (CHAIN[1:], [(6, 20)]),
        # One is missing in the middle.
        ((CHAIN[0], CHAIN[2]), [(1, 5), (10, 20)]),
        # A merged one beside its parts.
        ((*CHAIN, piece(1, 9, after=None)), [(1, 20)]),
        # What two workers wrote at the same time.
        ((CHAIN[0], piece(6, 12, after=5), piece(6, 8, after=5), piece(9, 14, after=8)), [(1, 14)]),
        # A chain that begins anew, right behind the old one: what lay between is not known.
        ((CHAIN[0], piece(6, 9, after=None)), [(1, 5), (6, 9)]),
        # Another history: the predecessor has the timestamp, and another term.
        ((CHAIN[0], piece(6, 9, after=5, term=2)), [(1, 5), (6, 9)]),
    ],
)
def test_ranges_are_what_is_covered_without_a_gap(
    slices: list[OplogSlice], expected: list[tuple[int, int]]
) -> None:
    assert ranges(*slices) == expected


@pytest.mark.parametrize(
    ("after", "through", "expected"),
    [
        (1, 20, [(1, 5), (6, 9), (10, 20)]),
        (5, 9, [(6, 9)]),
        (4, 6, [(1, 5), (6, 9)]),
        (9, 10, [(10, 20)]),
        (20, 20, []),
        (7, 3, []),
    ],
)
def test_a_reader_takes_the_slices_from_where_it_is(
    after: int, through: int, expected: list[tuple[int, int]]
) -> None:
    chosen = choose_slices(CHAIN, after=ts(after), through=ts(through))
    assert [(s.first.timestamp.seconds, s.last.timestamp.seconds) for s in chosen] == expected


def test_a_reader_takes_the_slice_that_reaches_furthest() -> None:
    merged = piece(1, 9, after=None)
    assert choose_slices((*CHAIN, merged), after=ts(2), through=ts(12)) == (merged, CHAIN[2])


def test_a_reader_may_begin_at_the_predecessor_of_the_first_slice() -> None:
    assert choose_slices(CHAIN[1:], after=ts(5), through=ts(9)) == (CHAIN[1],)


@pytest.mark.parametrize(
    ("after", "through"),
    [
        (0, 4),  # before the beginning: whether anything was there is not known
        (4, 21),  # beyond the end
        (30, 40),
    ],
)
def test_what_is_not_covered_is_refused(after: int, through: int) -> None:
    with pytest.raises(OplogGapError, match="oplog archive does not hold"):
        choose_slices(CHAIN, after=ts(after), through=ts(through))


def test_nobody_reads_across_a_gap() -> None:
    slices = (CHAIN[0], CHAIN[2])
    with pytest.raises(OplogGapError) as caught:
        choose_slices(slices, after=ts(4), through=ts(11))
    assert caught.value.missing_after == at(5)
    assert choose_slices(slices, after=ts(10), through=ts(11)) == (CHAIN[2],)


def test_a_gap_is_known_from_the_slices_and_keeps_when_it_was_found() -> None:
    slices = (CHAIN[0], CHAIN[2])
    assert gap_ends(slices) == ((at(5), at(10)),)
    found = update_gaps((), slices, now=NOW, reason="too short")
    assert found == (OplogGap(after=at(5), before=at(10), found=NOW, reason="too short"),)
    assert update_gaps(found, slices, now=datetime(2027, 1, 1, tzinfo=UTC), reason="") == found
    # What was trimmed away is forgotten.
    assert update_gaps(found, slices[1:], now=NOW, reason="") == ()


def test_the_newest_slice_is_the_one_with_the_newest_entry() -> None:
    assert newest_slice(()) is None
    assert newest_slice(CHAIN) == CHAIN[2]
    merged = piece(1, 20, after=None)
    assert newest_slice((*CHAIN, merged)) == merged


def test_a_timestamp_is_looked_for_in_the_smallest_slice_around_it() -> None:
    merged = piece(1, 9, after=None)
    assert find_slice((merged, *CHAIN), ts(7)) == CHAIN[1]
    assert find_slice((CHAIN[0], CHAIN[2]), ts(7)) is None


@st.composite
def _cut_history(draw: st.DrawFn) -> tuple[list[OplogSlice], set[int]]:
    """Slices of the entries 1 … 30, some of them lost, some doubled; and the entries that are in one."""
    slices: list[OplogSlice] = []
    for _ in range(draw(st.integers(1, 3))):
        cuts = sorted(draw(st.sets(st.integers(2, 30), max_size=6)) | {1, 31})
        for begin, end in itertools.pairwise(cuts):
            if draw(st.booleans()):
                slices.append(piece(begin, end - 1, after=begin - 1 if begin > 1 else None))
    return slices, {n for s in slices for n in range(s.first.timestamp.seconds, s.last.timestamp.seconds + 1)}


@given(_cut_history(), st.integers(1, 30), st.integers(1, 30))
def test_a_choice_covers_exactly_what_is_there(
    history: tuple[list[OplogSlice], set[int]], after: int, through: int
) -> None:
    slices, entries = history
    wanted = set(range(after + 1, through + 1))
    try:
        chosen = choose_slices(slices, after=ts(after), through=ts(through))
    except OplogGapError:
        # The entry at `after` itself may be the one that is missing.
        assert not (wanted | {after}) <= entries
        return
    covered: set[int] = set()
    position = after
    for found in chosen:
        assert found.starts_after <= ts(position)
        assert found.last > at(position)
        position = found.last.timestamp.seconds
        covered |= set(range(found.first.timestamp.seconds, position + 1))
    assert wanted <= covered


@given(_cut_history())
def test_ranges_hold_every_entry_of_every_slice_once(history: tuple[list[OplogSlice], set[int]]) -> None:
    slices, entries = history
    found = covered_ranges(slices)
    assert entries == {
        n for r in found for n in range(r.first.timestamp.seconds, r.last.timestamp.seconds + 1)
    }
    assert all(left.last < right.first for left, right in itertools.pairwise(found))
    assert all(isinstance(r, OplogRange) for r in found)
