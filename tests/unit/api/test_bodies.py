"""Bodies: bytes to fields, and the requests that are read from them."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.api.bodies import Body, Fields, parse_json, parse_object
from ebbtide.api.refusals import CODES, Refusal
from ebbtide.api.restore_requests import AutomatedRestore, HttpRestore, parse_restore_request
from ebbtide.domain.ids import SnapshotId
from ebbtide.domain.restore_point import AtMillis, AtOplog, AtSnapshot, RestorePoint

ID = "5a681ff180eef54e09de20d1"
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from(
    ["delivery", "snapshotId", "checkPointId", "oplogTs", "oplogInc", "pointInTimeUTCMillis", "links", "x"]
)
DELIVERY_NAMES = st.sampled_from(
    [
        "methodName",
        "expirationHours",
        "maxDownloads",
        "expires",
        "targetGroupId",
        "targetClusterId",
        "url",
        "x",
    ]
)
SOME = JSON_VALUES | st.sampled_from(["HTTP", "AUTOMATED_RESTORE", "QUERY", ID, 1, 0, -1, 2**31])


def body(content: bytes | None, content_type: str = "application/json; charset=utf-8") -> Body:
    return Body(content=content, content_type=content_type, bytes_max=100)


def refusal_of(read: Callable[[], Any]) -> Refusal | None:
    """The refusal that reading ends in, if it does; any other exception is a failure."""
    try:
        read()
    except Refusal as refused:
        return refused
    return None


@given(st.binary(max_size=200))
def test_any_bytes_are_a_value_or_a_refusal(content: bytes) -> None:
    refused = refusal_of(lambda: parse_json(body(content)))
    assert refused is None or refused.code in CODES


def test_every_duplicate_is_named_with_its_path() -> None:
    text = b'{"a": 1, "a": 2, "b": [{"c": {"d": 1, "d": 2}}]}'
    with pytest.raises(Refusal) as caught:
        parse_json(body(text))
    assert {"a", "b.0.c.d"} == {v.field for v in caught.value.violations}


@pytest.mark.parametrize(
    ("content", "content_type", "code"),
    [
        (None, "application/json", "REQUEST_BODY_TOO_LARGE"),
        (b"{}", "text/plain", "UNSUPPORTED_MEDIA_TYPE"),
        (b"\xef\xbb\xbf{}", "", "INVALID_JSON"),
        (b'"\\ud800"', "", "INVALID_JSON"),
        (b'{"\\udfff": 1}', "", "INVALID_JSON"),
        (b"1", "", "INVALID_JSON"),
    ],
)
def test_bad_bodies(content: bytes | None, content_type: str, code: str) -> None:
    with pytest.raises(Refusal) as caught:
        parse_object(body(content, content_type))
    assert code == caught.value.code


def test_integers() -> None:
    fields = Fields({"a": 24.0, "b": "7", "c": True, "d": 2**31, "e": 0, "f": None, "g": float("inf")})
    assert [
        fields.integer("a"),
        fields.integer("b"),
        fields.integer("b", or_text=True),
        fields.integer("f"),
    ] == [24, None, 7, None]
    assert [fields.integer("c"), fields.integer("d"), fields.positive("e"), fields.integer("g")] == [None] * 4
    assert [v.field for v in fields.violations] == ["b", "c", "d", "e", "g"]


def test_defaults_of_a_download_are_one_and_one() -> None:
    wanted = parse_restore_request({"delivery": {"methodName": "HTTP"}, "snapshotId": ID, "oplogTs": None})
    assert HttpRestore(snapshot_id=ID, expiration_hours=1, max_downloads=1) == wanted  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("point", "expected"),
    [
        ({"snapshotId": ID}, AtSnapshot(SnapshotId(ID))),
        ({"oplogTs": "1536610288", "oplogInc": "1"}, AtOplog(1536610288, 1)),
        ({"oplogTs": 1536610288, "oplogInc": 1}, AtOplog(1536610288, 1)),
        ({"oplogTs": "2018-09-10T20:11:28Z", "oplogInc": 1}, AtOplog(1536610288, 1)),
        ({"pointInTimeUTCMillis": 1536610288000.0}, AtMillis(1536610288000)),
    ],
)
def test_every_restore_point_of_an_automated_restore(point: dict[str, Any], expected: RestorePoint) -> None:
    delivery = {"methodName": "AUTOMATED_RESTORE", "targetGroupId": ID, "targetClusterName": "t"}
    wanted = parse_restore_request({"delivery": delivery, **point})
    assert isinstance(wanted, AutomatedRestore)
    assert expected == wanted.point
    assert (wanted.target_group_id, wanted.target_cluster_id, wanted.target_cluster_name) == (ID, None, "t")


@given(st.dictionaries(NAMES, SOME, max_size=5), st.dictionaries(DELIVERY_NAMES, SOME, max_size=5))
def test_any_body_is_a_request_or_a_refusal_with_sentences(
    top: dict[str, Any], delivery: dict[str, Any]
) -> None:
    refused = refusal_of(lambda: parse_restore_request({"delivery": delivery, **top}))
    if refused is not None:
        assert refused.code == refused.violations[0].code
        json.dumps(refused.document())
