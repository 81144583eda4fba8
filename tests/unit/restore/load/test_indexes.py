"""Index specifications as they are listed, and as they must be given to be created alike."""

from ebbtide.restore.load.indexes import creatable


def test_an_index_without_collation_in_a_collated_collection_compares_bytes() -> None:
    specification = {"v": 2, "key": {"a": 1}, "name": "a_1"}
    assert {**specification, "collation": {"locale": "simple"}} == creatable(specification, is_collated=True)
    assert specification == creatable(specification, is_collated=False)
    german = {**specification, "collation": {"locale": "de"}}
    assert german == creatable(german, is_collated=True)


def test_the_collection_s_name_in_old_files_is_left_out() -> None:
    specification = {"v": 1, "key": {"a": 1}, "name": "a_1"}
    assert specification == creatable({**specification, "ns": "shop.orders"}, is_collated=False)
