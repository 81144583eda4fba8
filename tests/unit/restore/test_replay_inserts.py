"""Entries of the archive are handed to the server in inserts that it takes."""

import bson
import pytest

from ebbtide.restore import replay
from ebbtide.restore.replay import _iter_inserts


def documents(*sizes: int) -> bytes:
    """Documents of exactly these lengths, end to end."""
    empty = len(bson.encode({"b": b""}))
    return b"".join(bson.encode({"b": bytes(size - empty)}) for size in sizes)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([], []),
        ([100, 100, 100], [3]),
        ([400, 400, 400], [2, 1]),  # no more bytes than one command holds
        ([20] * 12, [10, 2]),  # no more documents than one insert takes
        ([50, 700, 50], [1, 1, 1]),  # one that is too large for an insert is alone
        ([700, 700], [1, 1]),
    ],
)
def test_inserts_hold_what_the_server_takes(
    sizes: list[int], expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "INSERT_BYTES_MAX", 1000)
    monkeypatch.setattr(replay, "INSERT_DOCUMENTS_MAX", 10)
    monkeypatch.setattr(replay, "ENTRY_BYTES_MAX", 600)
    raw = documents(*sizes)
    inserts = list(_iter_inserts(raw))
    assert expected == [len(insert) for insert in inserts]
    assert raw == b"".join(document.raw for insert in inserts for document in insert)
