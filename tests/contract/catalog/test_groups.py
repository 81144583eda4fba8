"""Groups, keys, events and workers as the catalog keeps them."""

from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from ebbtide.catalog.catalog import Catalog
from ebbtide.catalog.connection import CatalogError
from ebbtide.catalog.workers import WorkerRecord
from ebbtide.domain.access_list import AccessEntry
from ebbtide.domain.event import EventLevel
from ebbtide.domain.expiry import ExpiryStage
from ebbtide.domain.ids import ClusterId, GroupId, new_id
from ebbtide.domain.sealed import Sealed
from ebbtide.errors import Unreachable

SECOND = timedelta(seconds=1)


def test_preparing_again_changes_nothing_and_a_newer_format_is_refused(
    catalog: Catalog, database: Any
) -> None:
    before = {name: database[name].index_information() for name in database.list_collection_names()}
    catalog.prepare()
    assert before == {name: database[name].index_information() for name in before}
    database.meta.update_one({"_id": "format"}, {"$set": {"version": 99}})
    try:
        with pytest.raises(CatalogError, match="format 99"):
            catalog.prepare()
    finally:
        database.meta.update_one({"_id": "format"}, {"$set": {"version": 1}})


def test_a_catalog_that_does_not_answer_is_unreachable() -> None:
    catalog = Catalog.connect("mongodb://127.0.0.1:1", timeout_seconds=0.1)
    try:
        with pytest.raises(Unreachable):
            catalog.ping()
        with pytest.raises(Unreachable):
            catalog.groups.list_all()
    finally:
        catalog.close()


def test_groups_are_listed_oldest_first(catalog: Catalog, make: SimpleNamespace) -> None:
    young = make.group(id="5f0000000000000000000001", created=make.now + SECOND)
    old = make.group(id="5f0000000000000000000002")
    for group in (young, old):
        catalog.groups.insert(group)
    assert [old, young] == catalog.groups.list_all()
    assert old == catalog.groups.find(old.id)
    assert catalog.groups.find(GroupId("5f00000000000000000000ff")) is None


def test_a_key_is_found_by_its_public_part_as_it_was_stored(catalog: Catalog, make: SimpleNamespace) -> None:
    entry = AccessEntry(cidr="10.0.0.0/8", created=make.now, last_used=make.now, count=2**40)
    key = make.key(access_list=(entry,), owner=True)
    catalog.api_keys.insert(key)
    assert key == catalog.api_keys.find_by_public_key(key.public_key)
    assert [key] == catalog.api_keys.list_all()
    assert catalog.api_keys.find_by_public_key("nobodyxx") is None


def test_keys_that_end_are_found_until_their_end_was_told(catalog: Catalog, make: SimpleNamespace) -> None:
    ends = {"aaaaaaaa": make.now - SECOND, "bbbbbbbb": make.now + SECOND, "cccccccc": None}
    keys = {name: make.key(id=new_id(), public_key=name, expires=end) for name, end in ends.items()}
    for key in keys.values():
        catalog.api_keys.insert(key)

    def found(before: datetime) -> set[str]:
        return {key.public_key for key in catalog.api_keys.list_ending(before)}

    assert found(make.now) == {"aaaaaaaa"}
    assert found(make.now + SECOND) == {"aaaaaaaa", "bbbbbbbb"}
    catalog.api_keys.note_expiry_told(keys["aaaaaaaa"].id, ExpiryStage.ENDED)
    catalog.api_keys.note_expiry_told(keys["bbbbbbbb"].id, ExpiryStage.SOON)
    assert found(make.now + SECOND) == {"bbbbbbbb"}


def test_a_public_key_is_taken_once(catalog: Catalog, make: SimpleNamespace) -> None:
    key = make.key()
    catalog.api_keys.insert(key)
    with pytest.raises(CatalogError):
        catalog.api_keys.insert(make.key(public_key=key.public_key))


def test_a_key_gets_a_new_secret(catalog: Catalog, make: SimpleNamespace) -> None:
    key = make.key()
    catalog.api_keys.insert(key)
    sealed = Sealed(key_id="other", nonce=bytes(12), ciphertext=b"new")
    catalog.api_keys.replace_secret(key.id, sealed)
    found = catalog.api_keys.find_by_public_key(key.public_key)
    assert found is not None
    assert sealed == found.ha1


def test_access_lists_are_edited_and_their_use_is_noted(catalog: Catalog, make: SimpleNamespace) -> None:
    key = make.key()
    catalog.api_keys.insert(key)
    entry = AccessEntry(cidr="10.0.0.0/8", created=make.now)
    for _ in range(2):  # twice: once is enough
        allowed = catalog.api_keys.allow(key.id, entry)
    assert allowed is not None
    assert (entry,) == allowed.access_list
    other = AccessEntry(cidr="::1/128", created=make.now)
    catalog.api_keys.allow(key.id, other)
    for _ in range(3):
        catalog.api_keys.record_use(key.id, "10.0.0.0/8", address="10.0.0.7", now=make.now + SECOND)
    found = catalog.api_keys.find_by_public_key(key.public_key)
    assert found is not None
    used = found.access_list[0]
    assert (3, "10.0.0.7", make.now + SECOND) == (used.count, used.last_used_address, used.last_used)
    assert other == found.access_list[1]
    left = catalog.api_keys.disallow(key.id, "10.0.0.0/8")
    assert left is not None
    assert (other,) == left.access_list
    assert catalog.api_keys.allow("nobody", entry) is None


def test_events_are_paged_newest_first_and_by_cluster(catalog: Catalog, make: SimpleNamespace) -> None:
    events = [
        make.event(
            id=f"5f00000000000000000000{number:02x}",
            time=make.now + SECOND * (number // 2),
            level=EventLevel.WARNING,
            cluster_id=ClusterId(make.cluster_id) if number % 3 == 0 else None,
        )
        for number in range(9)
    ]
    for event in events:
        catalog.events.insert(event)
    catalog.events.insert(make.event(group_id="5f00000000000000000000ee"))
    newest_first = events[::-1]
    pages = [
        event
        for page in range(3)
        for event in catalog.events.page(make.group_id, cluster_id=None, skip=4 * page, limit=4)
    ]
    assert newest_first == pages
    assert catalog.events.count(make.group_id, cluster_id=None) == 9
    of_cluster = [event for event in newest_first if event.cluster_id is not None]
    assert of_cluster == catalog.events.page(make.group_id, cluster_id=make.cluster_id, skip=0, limit=9)
    assert len(of_cluster) == catalog.events.count(make.group_id, cluster_id=make.cluster_id)


def test_workers_are_recorded_again_and_forgotten(catalog: Catalog, make: SimpleNamespace) -> None:
    worker = WorkerRecord(id="w", boot_id="b", pid=2**22, start_ticks=2**40, heartbeat=make.now)
    catalog.workers.put(worker)
    later = WorkerRecord(id="w", boot_id="b", pid=2**22, start_ticks=2**40, heartbeat=make.now + SECOND)
    catalog.workers.put(later)
    assert [later] == catalog.workers.list_all()
    catalog.workers.delete("w")
    assert catalog.workers.list_all() == []
