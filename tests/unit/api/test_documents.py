"""Error documents, envelopes, dates, and states as of now."""

import json
import string
from datetime import UTC, datetime, timedelta, timezone

import pytest

from ebbtide.api.queries import Presentation
from ebbtide.api.redaction import loggable_path
from ebbtide.api.refusals import CODES, not_logged_in, refusal, refuse_fields, violation
from ebbtide.api.responses import Answer, Shape, encode, render, wrap
from ebbtide.api.wire import effective_state, iso_date, link_key
from ebbtide.api.wire_own import seconds_left
from ebbtide.domain.ids import ClusterId, GroupId, RestoreJobId, SnapshotId
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.restore_job import EXPIRED, READY, USED_UP, RestoreJob

NOW = datetime(2026, 1, 1, tzinfo=UTC)
JOB = "5a681ff180eef54e09de20d1"


@pytest.mark.parametrize("code", CODES)
def test_every_code_makes_a_document_with_its_values(code: str) -> None:
    fields = [int(f) for _, f, _, _ in string.Formatter().parse(CODES[code].sentence) if f is not None]
    parameters = [f"value{n}" for n in range(max(fields, default=-1) + 1)]
    document = refusal(code, *parameters).document()
    assert (CODES[code].status, code, parameters) == (
        document["error"],
        document["errorCode"],
        document["parameters"],
    )
    assert all(f"value{n}" in document["detail"] for n in fields)


def test_a_failed_login_has_no_code_and_a_challenge() -> None:
    refused = not_logged_in("Digest x")
    assert {"error", "reason", "detail"} == refused.document().keys()
    assert refused.headers == {"WWW-Authenticate": "Digest x"}


def test_all_bad_fields_are_named_and_the_first_gives_the_code() -> None:
    rows = [violation("MISSING_ATTRIBUTE", "a"), violation("ATTRIBUTE_READ_ONLY", "b")]
    document = refuse_fields(rows).document()
    assert document["errorCode"] == "MISSING_ATTRIBUTE"
    assert [row["field"] for row in document["badRequestDetail"]["fields"]] == ["a", "b"]


def test_envelopes() -> None:
    assert wrap({"results": []}, shape=Shape.LIST, status=200) == {"status": 200, "results": []}
    assert wrap({"a": 1}, shape=Shape.ENTITY, status=404) == {"status": 404, "content": {"a": 1}}
    answer = Answer(document={"a": 1}, status=202)
    response = render(answer, Presentation(pretty=True, envelope=True))
    assert (response.status_code, json.loads(response.body)) == (202, {"status": 202, "content": {"a": 1}})


def test_text_that_utf8_cannot_hold_is_replaced() -> None:
    assert encode({"a": "ü\ud800"}, pretty=False) == '{"a":"ü?"}'.encode()


def test_dates_are_whole_seconds_in_utc() -> None:
    moment = datetime(2018, 1, 24, 23, 11, 41, 999000, tzinfo=timezone(timedelta(hours=1)))
    assert iso_date(moment) == "2018-01-24T22:11:41Z"


def test_the_key_of_a_link_is_base64_of_its_hex_digits() -> None:
    assert link_key("0ab5a50dd8aed4680a6aa84d3864303a") == "MGFiNWE1MGRkOGFlZDQ2ODBhNmFhODRkMzg2NDMwM2E="


@pytest.mark.parametrize(
    ("state", "passed", "expected"),
    [
        (READY, timedelta(seconds=-1), READY),
        (READY, timedelta(0), EXPIRED),
        (USED_UP, timedelta(hours=1), USED_UP),
    ],
)
def test_a_link_is_expired_from_its_moment_on(state: tuple, passed: timedelta, expected: tuple) -> None:  # type: ignore[type-arg]
    job = RestoreJob(
        id=RestoreJobId(JOB),
        group_id=GroupId(JOB),
        cluster_id=ClusterId(JOB),
        cluster_name="c",
        replica_set_name="rs",
        snapshot_id=SnapshotId(JOB),
        created=NOW,
        status=state[0],
        delivery_status=state[1],
        timestamp=OplogTimestamp(1, 1),
        expiration_hours=1,
        max_downloads=1,
        requested_by="",
        expires=NOW,
    )
    assert expected == effective_state(job, now=NOW + passed)


def test_time_left() -> None:
    assert [
        seconds_left(done=25, total=100, seconds=10),
        seconds_left(done=0, total=100, seconds=10),
        seconds_left(done=5, total=None, seconds=10),
        seconds_left(done=200, total=100, seconds=10),
    ] == [30, None, None, 0]


@pytest.mark.parametrize(
    "path",
    [
        f"/backup/restore/v2/pull/{JOB}/KEY/f.tar.gz",
        "/backup/restore/v2/pull/NOID/KEY/f.tar.gz",
        f"/backup//restore/v2/pull/{JOB}/KEY",
        "/KEY",
    ],
)
def test_keys_are_cut_out_of_paths(path: str) -> None:
    for key in ("MGFiNWE1MGRkOGFlZDQ2ODBhNmFhODRkMzg2NDMwM2E=", "0ab5a50dd8aed4680a6aa84d3864303a"):
        assert key not in loggable_path(path.replace("KEY", key))
