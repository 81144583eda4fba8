"""The faulty storage injects exactly the faults that it lists."""

import pytest

from ebbtide.errors import IntegrityError, ObjectNotFound, StorageError, StorageFull
from ebbtide.testing.storage import Faults, FaultyStorage, MemoryStorage, SimulatedCrash


def test_only_the_chosen_operation_fails() -> None:
    storage = FaultyStorage(MemoryStorage(), Faults(fail_operation=2))
    storage.put("a", [b"1"])
    with pytest.raises(StorageError, match="put 'b': injected failure"):
        storage.put("b", [b"2"])
    storage.put("c", [b"3"])
    assert {"a", "c"} == {found.name for found in storage.iter_objects("")}


def test_the_disk_is_full_from_a_number_of_bytes_on() -> None:
    storage = FaultyStorage(MemoryStorage(), Faults(disk_full_at_bytes=5))
    storage.put("a", [b"12345"])
    with pytest.raises(StorageFull):
        storage.put("b", [b"6"])
    with pytest.raises(ObjectNotFound):
        storage.size("b")


def test_writes_are_lost_and_torn_in_silence() -> None:
    storage = FaultyStorage(MemoryStorage(), Faults(lose_put=1, tear_put=2))
    assert storage.put("lost", [b"1234"]) == 4
    assert storage.put("torn", [b"1234"]) == 4
    with pytest.raises(ObjectNotFound):
        storage.size("lost")
    assert storage.get("torn", limit=4) == b"12"


def test_reads_see_a_flipped_bit_and_a_truncated_end() -> None:
    inner = MemoryStorage()
    inner.put("a", [b"\0\0\0"])
    flipped = FaultyStorage(inner, Faults(flip_bit=("a", 9)))
    assert (flipped.get("a", limit=3), flipped.get_range("a", start=1, length=1)) == (b"\0\2\0", b"\2")
    truncated = FaultyStorage(inner, Faults(truncate=("a", 2)))
    assert truncated.size("a") == 2
    with pytest.raises(IntegrityError):
        truncated.get_range("a", start=0, length=3)


@pytest.mark.parametrize(
    ("faults", "stored"),
    [
        (Faults(crash_before_put=2), {"a"}),
        (Faults(crash_after_put=2), {"a", "b"}),
        (Faults(crash_at_operation=2), {"a"}),
    ],
)
def test_after_a_crash_nothing_works_any_more(faults: Faults, stored: set[str]) -> None:
    inner = MemoryStorage()
    storage = FaultyStorage(inner, faults)
    storage.put("a", [b"1"])
    with pytest.raises(SimulatedCrash):
        storage.put("b", [b"2"])
    with pytest.raises(SimulatedCrash):
        storage.delete("a")
    assert stored == set(inner.objects)
