"""Which files make a snapshot, and at which time they open."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.domain.capture import (
    MUST_BE_STORED,
    check_complete,
    is_always_read,
    is_left_out,
    named_files,
    parse_stable_timestamp,
)
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.errors import SnapshotUnusable

LEFT_OUT = [
    "WiredTiger.wt", "WiredTiger.turtle", "WiredTiger.turtle.set", "WiredTiger.lock", "mongod.lock",
    "journal/WiredTigerPreplog.0000000001", "WiredTigerPreplog.0000000001", "journal/WiredTigerTmplog.0000000003",
    "diagnostic.data", "diagnostic.data/metrics.interim", "_tmp", "_tmp/extsort-index.1", "mongod.log",
    "mongod.log.2026-01-01T00-00-00", "mongod.sock",
]  # fmt: skip
TAKEN = [
    "WiredTiger", "WiredTiger.backup", "WiredTigerHS.wt", "_mdb_catalog.wt", "sizeStorer.wt", "storage.bson",
    "collection-0--123.wt", "index-1--123.wt", "journal/WiredTigerLog.0000000001", "shop/collection-7--1.wt",
    "logs/collection-7--1.wt",
]  # fmt: skip


@pytest.mark.parametrize("path", LEFT_OUT)
def test_what_mongod_rebuilds_or_never_reads_is_left_out(path: str) -> None:
    assert is_left_out(path)


@pytest.mark.parametrize("path", TAKEN)
def test_everything_else_is_taken(path: str) -> None:
    assert not is_left_out(path)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("WiredTiger", True),
        ("WiredTiger.backup", True),
        ("WiredTigerHS.wt", True),
        ("journal/WiredTigerLog.0000000001", True),
        ("journal/anything", True),
        ("collection-9--1.wt", True),  # the oplog
        ("collection-10--1.wt", False),
        ("shop/collection-9--1.wt", False),
        ("sizeStorer.wt", False),
        ("shop/journal/x.wt", False),
    ],
)
def test_files_whose_times_cannot_be_trusted_are_always_read(path: str, expected: bool) -> None:
    assert expected is is_always_read(path, oplog_file="collection-9--1.wt")


def metadata(stable: str, *, files: tuple[str, ...] = ("collection-0--1.wt",), before: str = "") -> str:
    """Text like a WiredTiger.backup: keys and values in turn."""
    lines = ["WiredTiger version", "major=10,minor=0,patch=2"]
    for name in files:
        lines += [f"file:{name}", "allocation_size=4KB,app_metadata=(formatVersion=1),id=2"]
    lines += [before] if before else []
    lines += ["system:checkpoint", stable, "system:oldest", 'oldest_timestamp="6345"', ""]
    return "\n".join(lines)


def stable_of(packed: int) -> str:
    return f'checkpoint_timestamp="{packed:x}",checkpoint_time=1700000000,write_gen=9'


@given(seconds=st.integers(0, 2**32 - 1), increment=st.integers(0, 2**32 - 1))
def test_the_stable_timestamp_is_read_as_it_was_written(seconds: int, increment: int) -> None:
    text = metadata(stable_of(seconds << 32 | increment))
    if (seconds, increment) == (0, 0):
        with pytest.raises(SnapshotUnusable):
            parse_stable_timestamp(text)
    else:
        assert OplogTimestamp(seconds, increment) == parse_stable_timestamp(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "system:checkpoint",
        metadata('checkpoint_timestamp=""'),
        metadata('checkpoint_timestamp="0"'),
        metadata("checkpoint_time=1700000000"),
        metadata('oldest_timestamp="6345"'),
        metadata(stable_of(5)).replace("system:checkpoint", "system:other"),
        metadata(f'checkpoint_timestamp="{"f" * 17}"'),
    ],
)
def test_files_without_a_stable_timestamp_are_no_snapshot(text: str) -> None:
    with pytest.raises(SnapshotUnusable):
        parse_stable_timestamp(text)


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse_stable_timestamp(text)
    except SnapshotUnusable:
        pass
    named_files(text)


@pytest.mark.parametrize("separator", ["\u2028", "\x85", "\x0b", "\x1e"])
def test_only_a_line_feed_ends_a_line(separator: str) -> None:
    """An index's definition is part of the text, so names that users chose are too."""
    trick = f"x{separator}system:checkpoint{separator}nothing{separator}file:absent.wt{separator}"
    text = metadata(stable_of(7), before=f"index:a\n{trick}")
    assert OplogTimestamp(0, 7) == parse_stable_timestamp(text)
    assert named_files(text) == {"collection-0--1.wt"}


def test_every_file_that_the_metadata_names_is_needed_but_its_own_table() -> None:
    text = metadata(stable_of(1), files=("a.wt", "shop/b.wt", "WiredTiger.wt"))
    assert named_files(text) == {"a.wt", "shop/b.wt"}


COMPLETE = [*MUST_BE_STORED, "collection-0--1.wt", "journal/WiredTigerLog.0000000002"]


def test_a_complete_copy_is_accepted() -> None:
    check_complete(iter(COMPLETE), metadata(stable_of(1)))


@pytest.mark.parametrize("absent", COMPLETE)
def test_a_copy_that_lacks_any_needed_file_is_refused(absent: str) -> None:
    paths = [path for path in COMPLETE if path != absent]
    expected = "journal" if absent.startswith("journal/") else absent
    with pytest.raises(SnapshotUnusable, match=expected):
        check_complete(paths, metadata(stable_of(1)))
