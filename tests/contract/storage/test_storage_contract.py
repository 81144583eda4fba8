"""What every storage promises, run against each implementation."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ebbtide.clock import SystemClock
from ebbtide.errors import IntegrityError, InvalidInput, ObjectNotFound
from ebbtide.storage.directory import DirectoryStorage
from ebbtide.storage.protocol import Storage
from ebbtide.storage.throttled import RateLimit, ThrottledStorage
from ebbtide.testing.storage import Faults, FaultyStorage, MemoryStorage

IMPLEMENTATIONS: dict[str, Callable[[Path], Storage]] = {
    "directory": lambda path: DirectoryStorage(path / "repository"),
    "memory": lambda _: MemoryStorage(),
    "throttled": lambda _: ThrottledStorage(MemoryStorage(), writes=RateLimit(1e9, SystemClock())),
    "faulty without faults": lambda _: FaultyStorage(MemoryStorage(), Faults()),
}


@pytest.fixture(params=IMPLEMENTATIONS)
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return IMPLEMENTATIONS[request.param](tmp_path)


def names(storage: Storage, prefix: str = "") -> set[str]:
    return {found.name for found in storage.iter_objects(prefix)}


def test_put_then_get_returns_the_joined_chunks(storage: Storage) -> None:
    assert storage.put("a/b/c", [b"one", b"", b"two"]) == 6
    assert storage.get("a/b/c", limit=6) == b"onetwo"
    assert storage.size("a/b/c") == 6


def test_put_overwrites(storage: Storage) -> None:
    storage.put("a", [b"long before"])
    storage.put("a", [b"now"])
    assert storage.get("a", limit=100) == b"now"


def test_an_empty_object_exists(storage: Storage) -> None:
    storage.put("a/empty", [])
    assert storage.size("a/empty") == 0
    assert storage.get("a/empty", limit=0) == b""


def test_put_many_stores_each(storage: Storage) -> None:
    objects = [(f"many/{i % 7}/{i}", str(i).encode()) for i in range(100)]
    assert sum(len(data) for _, data in objects) == storage.put_many(objects)
    assert {name for name, _ in objects} == names(storage, "many/")
    assert storage.get("many/0/42", limit=2) == b"42"


def test_get_refuses_an_object_over_the_limit(storage: Storage) -> None:
    storage.put("a", [b"four"])
    with pytest.raises(IntegrityError, match="a: is longer"):
        storage.get("a", limit=3)


def test_get_range_returns_exactly_what_was_asked_for(storage: Storage) -> None:
    storage.put("a", [b"0123456789"])
    assert storage.get_range("a", start=3, length=3) == b"345"
    assert storage.get_range("a", start=10, length=0) == b""


def test_get_range_past_the_end_is_damage(storage: Storage) -> None:
    storage.put("a", [b"0123456789"])
    with pytest.raises(IntegrityError, match="a: ends 2 bytes before"):
        storage.get_range("a", start=8, length=4)


def test_absent_objects_are_not_found_and_named(storage: Storage) -> None:
    for read in (
        lambda: storage.get("no/such", limit=1),
        lambda: storage.get_range("no/such", start=0, length=1),
        lambda: storage.size("no/such"),
    ):
        with pytest.raises(ObjectNotFound) as caught:
            read()
        assert caught.value.object_name == "no/such"


def test_delete_is_idempotent(storage: Storage) -> None:
    storage.put("a/b", [b"x"])
    storage.delete("a/b")
    storage.delete("a/b")
    storage.delete("never/was")
    assert set() == names(storage)


def test_listing_takes_any_string_as_prefix(storage: Storage) -> None:
    for name in ("p/aa-1", "p/aa-2", "p/ab-1", "q/aa-1"):
        storage.put(name, [b"xy"])
    assert {"p/aa-1", "p/aa-2"} == names(storage, "p/aa-")
    assert {"p/aa-1", "p/aa-2", "p/ab-1"} == names(storage, "p/")
    assert set() == names(storage, "absent/")
    assert {2} == {found.size_bytes for found in storage.iter_objects("")}


def test_an_error_of_the_chunks_passes_and_stores_nothing(storage: Storage) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"begun"
        raise KeyError("the caller's own")

    with pytest.raises(KeyError):
        storage.put("a", chunks())
    assert set() == names(storage)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/a",
        "a/",
        "a//b",
        "../a",
        "a/../b",
        "./a",
        "tmp/a",
        "a\0b",
        "a b",
        "ä",
        "x" * 256,
        "y/" * 500 + "y",
    ],
)
def test_invalid_names_are_refused(storage: Storage, name: str) -> None:
    with pytest.raises(InvalidInput):
        storage.put(name, [b"x"])
    with pytest.raises(InvalidInput):
        storage.get(name, limit=1)


def test_parallel_puts_of_one_name_leave_one_of_them_whole(storage: Storage) -> None:
    values = [bytes([i]) * 10_000 for i in range(8)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda value: storage.put("a", [value[:5000], value[5000:]]), values))
    assert storage.get("a", limit=10_000) in values
