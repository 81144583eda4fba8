"""Downloads: resumed, verified, and never given their name before that."""

import fcntl
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scripted_api import PRIVATE_KEY, PUBLIC_KEY, Archive

from ebbtide.cli import download, download_fetch
from ebbtide.cli.api_errors import ApiRefusal
from ebbtide.cli.client import EbbtideClient
from ebbtide.cli.profile import Connection
from ebbtide.errors import IntegrityError, InvalidInput, Refused, Unreachable

NAME = "rs0-1700000000-" + "e" * 24 + ".tar.gz"
PATH = f"/backup/restore/v3/pull/{'e' * 24}/{NAME}"
DATA = bytes(range(256)) * 4 * 4096  # 4 MiB


@pytest.fixture
def archive(api: Any) -> Archive:
    api.archives[PATH] = Archive(DATA)
    found: Archive = api.archives[PATH]
    return found


def _job(api: Any, archive: Archive, sha1: str | None = None) -> dict[str, Any]:
    delivery = {"urlV2": api.base_url + PATH, "authHeader": "Authorization", "authBearer": "Bearer"}
    return {
        "id": "e" * 24,
        "delivery": delivery | {"authValue": archive.key},
        "hashes": [{"typeName": "SHA1", "fileName": NAME, "hash": sha1 or archive.sha1}],
    }


@pytest.fixture
def fetch(api: Any, archive: Archive, tmp_path: Path) -> Callable[..., download.Downloaded]:
    """Download into tmp_path without ever sleeping."""

    def run(sha1: str | None = None, **options: Any) -> download.Downloaded:
        connection = Connection(
            base_url=api.base_url, public_key=PUBLIC_KEY, private_key=PRIVATE_KEY, origin="test"
        )
        job = _job(api, archive, sha1)
        with EbbtideClient(connection) as client:
            return download.download_to_file(
                client,
                download_fetch.link_of(job, base_url=api.base_url),
                tmp_path / NAME,
                fetch_job=options.pop("fetch_job", lambda: job),
                report=lambda *_: None,
                sleep=lambda _: None,
                **options,
            )

    return run


def _assert_whole(tmp_path: Path) -> None:
    assert (tmp_path / NAME).read_bytes() == DATA
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(NAME)] == [NAME]


def test_a_download_gets_its_name_when_it_is_whole(fetch: Any, tmp_path: Path, archive: Archive) -> None:
    result = fetch()
    _assert_whole(tmp_path)
    assert (len(DATA), archive.sha1, 0) == (result.size_bytes, result.sha1, result.resumed_at)
    assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("cuts", [[1], [2_000_000], [0, 0, 3_000_000, 10], [1_048_576], [4_194_303]])
def test_a_cut_connection_is_resumed_by_range(
    fetch: Any, tmp_path: Path, archive: Archive, cuts: list[int]
) -> None:
    archive.cuts = list(cuts)
    fetch()
    _assert_whole(tmp_path)


def test_the_last_mebibyte_is_asked_for_again_so_that_the_server_counts_it(
    fetch: Any, tmp_path: Path, archive: Archive
) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(DATA[:3_000_000])
    (tmp_path / f"{NAME}.part.etag").write_text(archive.etag)
    result = fetch()
    assert [request["range"] for request in archive.requests] == ["bytes=1951424-"]
    assert [request["if-range"] for request in archive.requests] == ['"v1"']
    assert result.resumed_at == 3_000_000
    _assert_whole(tmp_path)


def test_a_part_of_another_archive_is_started_over(fetch: Any, tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(b"x" * 3_000_000)
    (tmp_path / f"{NAME}.part.etag").write_text('"v0"')
    fetch()
    _assert_whole(tmp_path)


def test_a_part_without_its_etag_is_started_over(fetch: Any, tmp_path: Path, archive: Archive) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(b"x" * 3_000_000)
    fetch()
    assert "range" not in archive.requests[0]
    _assert_whole(tmp_path)


def test_a_part_that_was_damaged_here_is_noticed(fetch: Any, tmp_path: Path, archive: Archive) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(DATA[:2_999_999] + b"?")
    (tmp_path / f"{NAME}.part.etag").write_text(archive.etag)
    with pytest.raises(IntegrityError, match="not what the server has"):
        fetch()
    assert not (tmp_path / NAME).exists()


def test_another_sha1_leaves_the_part_unnamed(fetch: Any, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError) as caught:
        fetch(sha1="0" * 40)
    assert caught.value.exit_code == 8
    assert not (tmp_path / NAME).exists()
    assert (tmp_path / f"{NAME}.part").exists()


def test_damage_before_the_tail_is_found_by_the_sha1(fetch: Any, tmp_path: Path, archive: Archive) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(b"?" + DATA[1:3_000_000])
    (tmp_path / f"{NAME}.part.etag").write_text(archive.etag)
    with pytest.raises(IntegrityError, match="SHA-1"):
        fetch()
    assert not (tmp_path / NAME).exists()


def test_the_sha1_may_come_a_while_later(fetch: Any, api: Any, archive: Archive, tmp_path: Path) -> None:
    answers: list[dict[str, Any]] = [{}, {"hashes": []}, _job(api, archive)]
    fetch(fetch_job=lambda: answers.pop(0))
    _assert_whole(tmp_path)


def test_without_a_sha1_the_file_stays_unverified_and_unnamed(
    fetch: Any, archive: Archive, tmp_path: Path
) -> None:
    with pytest.raises(Unreachable, match="not verified"):
        fetch(fetch_job=dict)
    assert not (tmp_path / NAME).exists()
    # Later the server knows it: what is here is verified without asking for it all again.
    archive.requests.clear()
    fetch(expected_bytes=len(DATA))
    assert archive.requests == []
    _assert_whole(tmp_path)


def test_a_whole_part_is_verified_though_its_link_is_dead(
    fetch: Any, tmp_path: Path, archive: Archive
) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(DATA)
    (tmp_path / f"{NAME}.part.etag").write_text(archive.etag)
    archive.refusals = [410]
    fetch(expected_bytes=len(DATA), may_fetch=False)
    _assert_whole(tmp_path)


def test_a_busy_server_is_asked_again(fetch: Any, tmp_path: Path, archive: Archive) -> None:
    archive.refusals = [429, 503]
    fetch()
    _assert_whole(tmp_path)


def test_a_dead_link_ends_it(fetch: Any, archive: Archive) -> None:
    archive.refusals = [410]
    with pytest.raises(ApiRefusal) as caught:
        fetch()
    assert caught.value.exit_code == 3


def test_a_server_that_sends_nothing_ends_it_in_the_end(fetch: Any, archive: Archive) -> None:
    archive.cuts = [0] * 20
    with pytest.raises(Unreachable):
        fetch()
    assert len(archive.requests) == download_fetch.ATTEMPTS_MAX


def test_two_downloads_never_write_one_part(fetch: Any, tmp_path: Path) -> None:

    with (tmp_path / f"{NAME}.part").open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(Refused, match="another download"):
            fetch()


def test_a_stream_is_resumed_too(api: Any, archive: Archive) -> None:
    archive.cuts = [2_500_000, 100]
    connection = Connection(base_url=api.base_url, public_key=PUBLIC_KEY, private_key="x", origin="test")
    stream = io.BytesIO()
    with EbbtideClient(connection) as client:
        download.download_to_stream(
            client,
            download_fetch.link_of(_job(api, archive), base_url=api.base_url),
            stream,
            fetch_job=lambda: _job(api, archive),
            report=lambda *_: None,
            sleep=lambda _: None,
        )
    assert stream.getvalue() == DATA


@pytest.mark.parametrize("name", ["..", "a/../b.tar.gz/", "x.zip", "%2e%2e.tar.gz", "-rf.tar.gz", ".tar.gz"])
def test_a_name_that_is_no_archives_is_refused(name: str) -> None:
    job = {"delivery": {"urlV2": f"http://a/{name}", "authValue": "k"}}
    with pytest.raises(Refused):
        download_fetch.link_of(job, base_url="http://a")


def test_the_key_is_not_sent_in_the_clear_where_the_api_is_not() -> None:
    job = {"delivery": {"urlV2": "http://a/a.tar.gz", "authValue": "k"}}
    with pytest.raises(Refused, match="HTTPS"):
        download_fetch.link_of(job, base_url="https://a")


def test_a_reader_without_a_link_is_told(api: Any) -> None:
    with pytest.raises(Refused, match="no download link"):
        download_fetch.link_of({"id": "e", "delivery": {}}, base_url=api.base_url)


def test_where_it_goes(tmp_path: Path) -> None:
    assert tmp_path / "a.tar.gz" == download.target_path(str(tmp_path), "a.tar.gz")
    assert tmp_path / "b" == download.target_path(str(tmp_path / "b"), "a.tar.gz")
    assert Path("a.tar.gz") == download.target_path(None, "a.tar.gz")
    with pytest.raises(InvalidInput):
        download.target_path(str(tmp_path / "nowhere" / "b"), "a.tar.gz")
    (tmp_path / "b").touch()
    with pytest.raises(Refused, match="already there"):
        download.target_path(str(tmp_path / "b"), "a.tar.gz")
