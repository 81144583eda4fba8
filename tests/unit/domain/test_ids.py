"""Typed identifiers."""

import pytest

from ebbtide.domain.ids import is_id, new_id


def test_a_new_id_has_the_shape_of_one_and_is_new() -> None:
    ids = [new_id() for _ in range(100)]
    assert all(is_id(found) for found in ids)
    assert len(set(ids)) == 100


def test_ids_sort_by_age() -> None:
    ids = [new_id() for _ in range(100)]
    assert sorted(ids) == ids


@pytest.mark.parametrize(
    "text",
    ["", "5f", "5F0000000000000000000001", "5f000000000000000000000g", "5f0000000000000000000001\n", None, 5, b"5f0000000000000000000001"],
)  # fmt: skip
def test_anything_else_is_no_id(text: object) -> None:
    assert not is_id(text)
