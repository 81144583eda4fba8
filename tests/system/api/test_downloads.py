"""Download links on a real archive: ranges, counting, limits, damage, and what the log may hold."""

import os
import socket
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from ebbtide.domain.download import Transfer
from ebbtide.domain.event import EventLevel
from ebbtide.domain.ids import new_id
from ebbtide.restore.requesting import cancel_restore_job

CONTENT = {
    "WiredTiger": b"WiredTiger\n",
    "collection-0.wt": os.urandom(3_000_000),
    "journal/log": bytes(100_000),
}


@pytest.fixture(scope="module")
def snapshot(service: Any) -> Any:
    return service.stored_snapshot(CONTENT)


def get(url: str, **headers: str) -> requests.Response:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return requests.get(url, headers=names, timeout=60)


def test_head_and_get_tell_the_same_and_head_never_counts(service: Any, snapshot: Any) -> None:
    job = service.ready_job(snapshot)
    link, link_v3, header = service.links(job)
    data = service.archive_bytes(job)
    for _ in range(3):
        head = requests.head(link, timeout=60)
        assert (head.status_code, head.content) == (200, b"")
    assert head.headers["Content-Length"] == str(len(data))
    assert requests.head(link_v3, headers=header, timeout=60).status_code == 200
    whole = requests.get(link_v3, headers=header, timeout=60)
    assert whole.content == data
    expected = {
        "Content-Type": "application/gzip",
        "Content-Length": str(len(data)),
        "Content-Disposition": f'attachment; filename="{job.file_name}"',
        "Accept-Ranges": "bytes",
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
    }
    assert expected == {name: whole.headers.get(name) for name in expected}
    assert head.headers["ETag"] == whole.headers["ETag"]
    assert "Content-Encoding" not in whole.headers
    assert service.job(job.id).completed_downloads == 1
    assert [get(link).status_code, requests.head(link, timeout=60).status_code] == [410, 410]


def test_hashes_appear_after_the_first_complete_download(service: Any, snapshot: Any) -> None:
    job = service.ready_job(snapshot, downloads=2)
    address = f"{service.base}/restoreJobs/{job.id}"
    service.catalog.restore_jobs.set_sha1(job.id, "a" * 40)
    assert "hashes" not in service.call("GET", address).json()
    get(service.links(job)[0])
    (shown,) = service.call("GET", address).json()["hashes"]
    assert shown == {"typeName": "SHA1", "fileName": job.file_name, "hash": "a" * 40}
    assert service.call("GET", address).json()["delivery"]["statusName"] == "READY"
    kinds = [
        e.kind for e in service.catalog.events.page(service.group.id, cluster_id=None, skip=0, limit=500)
    ]
    assert "restore.downloaded" in kinds


def test_ranges(service: Any, snapshot: Any) -> None:
    job = service.ready_job(snapshot, downloads=1000)
    link, _, _ = service.links(job)
    data = service.archive_bytes(job)
    n = len(data)
    etag = requests.head(link, timeout=60).headers["ETag"]
    parts = {
        "bytes=0-0": (0, 1),
        "bytes=100-70099": (100, 70100),
        f"bytes={n - 1}-": (n - 1, n),
        "bytes=-10": (n - 10, n),
        f"bytes=-{n + 5}": (0, n),
        f"bytes=1000-{n + 1000}": (1000, n),
    }
    for text, (first, end) in parts.items():
        answer = get(link, Range=text)
        assert (answer.status_code, answer.headers["Content-Range"]) == (206, f"bytes {first}-{end - 1}/{n}")
        assert answer.content == data[first:end]
        assert answer.headers["Content-Length"] == str(end - first)
    for text in ("bytes=5-2", "lines=1-2", "bytes=0-1,4-5", "bytes=x-", "bytes=-"):
        answer = get(link, Range=text)
        assert (answer.status_code, len(answer.content)) == (200, n)
    for text in (f"bytes={n}-", "bytes=-0"):
        answer = get(link, Range=text)
        assert (answer.status_code, answer.headers["Content-Range"]) == (416, f"bytes */{n}")
        assert answer.json()["errorCode"] == "RANGE_NOT_SATISFIABLE"
    assert get(link, Range="bytes=0-9", If_Range=etag).status_code == 206
    assert get(link, Range="bytes=0-9", If_Range='"other"').status_code == 200
    assert get(link, Range="bytes=0-9", If_Range="Wed, 21 Oct 2015 07:28:00 GMT").status_code == 200
    assert get(link, If_None_Match=etag).status_code == 304
    assert get(link, If_Match='"other"').status_code == 412


def test_a_download_in_parallel_ranges_counts_once(service: Any, snapshot: Any) -> None:
    job = service.ready_job(snapshot)
    link, _, _ = service.links(job)
    data = service.archive_bytes(job)
    quarter = len(data) // 4
    bounds = [(i * quarter, (i + 1) * quarter if i < 3 else len(data)) for i in range(4)]
    found: dict[int, bytes] = {}

    def fetch(place: int) -> None:
        first, end = bounds[place]
        found[place] = get(link, Range=f"bytes={first}-{end - 1}").content

    threads = [threading.Thread(target=fetch, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert b"".join(found[place] for place in range(4)) == data
    assert service.job(job.id).completed_downloads == 1
    assert get(link, Range="bytes=0-0").status_code == 410


def cut_off(link: str, *, after_bytes: int) -> bytes:
    """What a client got that hangs up, with the rest still under way."""
    address = urlsplit(link)
    got = b""
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=60) as connection:
        connection.sendall(f"GET {address.path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        while len(got) < after_bytes:
            got += connection.recv(65536)
    return got.split(b"\r\n\r\n", 1)[1]


def test_a_broken_transfer_is_resumed_and_counts_once(service: Any) -> None:
    snapshot = service.stored_snapshot({"collection-0.wt": os.urandom(48_000_000)})
    job = service.ready_job(snapshot)
    link, _, _ = service.links(job)
    begun = cut_off(link, after_bytes=2_000_000)
    service.wait_until(lambda: all(t.ended for t in service.catalog.transfers.list_for_job(job.id)))
    (transfer,) = service.catalog.transfers.list_for_job(job.id)
    assert 0 < transfer.sent_bytes < transfer.end
    assert service.job(job.id).completed_downloads == 0
    # After the expiry only the resumption of what broke off may begin.
    service.clock.ahead += timedelta(minutes=70)
    try:
        assert (
            service.call("GET", f"{service.base}/restoreJobs/{job.id}").json()["delivery"]["statusName"]
            == "EXPIRED"
        )
        assert get(link).status_code == 410
        rest = get(link, Range=f"bytes={len(begun)}-")
        assert rest.status_code == 206
        assert begun + rest.content == service.archive_bytes(job)
    finally:
        service.clock.ahead -= timedelta(minutes=70)


def test_an_expired_link_and_a_cancelled_one_are_gone(service: Any, snapshot: Any) -> None:
    expired, cancelled = service.ready_job(snapshot), service.ready_job(snapshot)
    links = [service.links(job)[0] for job in (expired, cancelled)]
    cancel_restore_job(cancelled, catalog=service.catalog, clock=service.clock, actor="test")
    service.clock.ahead += timedelta(hours=1)
    try:
        for link in links:
            answer = get(link)
            assert (answer.status_code, answer.json()["errorCode"]) == (410, "LINK_NOT_USABLE")
    finally:
        service.clock.ahead -= timedelta(hours=1)


def test_wrong_links_all_get_one_answer(service: Any, snapshot: Any) -> None:
    job = service.ready_job(snapshot)
    link, link_v3, header = service.links(job)
    not_ready = service.new_job(snapshot)
    wrong_key = {"Authorization": "Bearer " + "0" * 32}
    answers = [
        requests.get(link.replace(job.id, new_id(), 1), timeout=60),
        requests.get(link.rsplit("/", 1)[0] + "/other.tar.gz", timeout=60),
        requests.get(link.replace("/pull/" + job.id + "/", "/pull/" + job.id + "/x"), timeout=60),
        requests.get(link_v3, timeout=60),
        requests.get(link_v3, headers=wrong_key, timeout=60),
        requests.get(link_v3.replace(job.id, not_ready.id), headers=header, timeout=60),
        requests.get(link_v3.replace(job.id, "nonsense"), headers=header, timeout=60),
    ]
    assert {(404, answers[0].content)} == {(a.status_code, a.content) for a in answers}
    assert service.catalog.transfers.list_for_job(job.id) == []
    refused = requests.post(link, timeout=60)
    assert (refused.status_code, refused.headers["Allow"]) == (405, "GET, HEAD")


def test_more_transfers_than_allowed_wait(service: Any, snapshot: Any) -> None:
    job = service.ready_job(snapshot, downloads=1000)
    link, _, _ = service.links(job)
    now = service.clock.now()
    running = [
        Transfer(id=new_id(), job_id=job.id, first=0, end=10, sent_bytes=0, started=now, updated=now)
        for _ in range(8)
    ]
    for transfer in running:
        service.catalog.transfers.insert(transfer)
    answer = get(link)
    assert (answer.status_code, answer.json()["errorCode"]) == (429, "TOO_MANY_TRANSFERS")
    assert int(answer.headers["Retry-After"]) > 0
    assert len(service.catalog.transfers.list_for_job(job.id)) == 8
    service.catalog.transfers.delete(running[0].id)
    assert get(link).status_code == 200


def flip_in_packs(service: Any, snapshot: Any, *, from_end: int) -> None:
    packs = sorted(Path(service.repository_path, snapshot.cluster_id).rglob("packs/*"))
    own = [p for p in packs if snapshot.id in p.name or p.stat().st_mtime > time.time() - 30]
    path = max(own, key=lambda p: p.stat().st_mtime_ns)
    data = bytearray(path.read_bytes())
    data[-from_end] ^= 0x55
    path.chmod(0o600)
    path.write_bytes(data)


def test_damage_under_way_cuts_the_connection_and_kills_the_link(service: Any) -> None:
    snapshot = service.stored_snapshot({"collection-0.wt": os.urandom(12_000_000)})
    job = service.ready_job(snapshot, downloads=5)
    link, _, _ = service.links(job)
    flip_in_packs(service, snapshot, from_end=200_000)
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        get(link)
    damaged = service.wait_until(lambda: (j := service.job(job.id)).delivery_status.value == "FAILED" and j)
    assert "pack" in damaged.reason
    assert get(link).status_code == 410
    events = service.catalog.events.page(service.group.id, cluster_id=None, skip=0, limit=5)
    assert any(e.level is EventLevel.ERROR and e.subject_id == job.id and "pack" in e.message for e in events)


def test_damage_before_the_first_byte_is_a_refusal(service: Any) -> None:
    snapshot = service.stored_snapshot({"collection-0.wt": os.urandom(100_000)})
    job = service.ready_job(snapshot)
    link, _, _ = service.links(job)
    flip_in_packs(service, snapshot, from_end=50_000)
    assert (get(link).status_code, get(link).status_code) == (410, 410)
    assert service.catalog.transfers.list_for_job(job.id) == []


def test_the_log_never_holds_a_key(service: Any, snapshot: Any, capsys: pytest.CaptureFixture[str]) -> None:
    job = service.ready_job(snapshot)
    link, link_v3, header = service.links(job)
    key, shown_key = service.download_key(job), link.split("/")[-2]
    for path in (link, link.replace("pull/", "pull//"), link.replace("/v2/", "/v9/"), f"{link_v3}/{key}"):
        requests.get(path, headers=header, timeout=60)
    requests.get(f"{service.url}/api/atlas/v1.0/{shown_key}?key={key}", timeout=60)
    captured = capsys.readouterr()
    text = captured.out + captured.err
    assert "api.request" in text
    for secret in (key, shown_key, service.owner[1]):
        assert secret not in text
