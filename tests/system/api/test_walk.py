"""The first whole path over the wire: log in, list, create a restore job, download it."""

import hashlib
import io
import json
import os
import subprocess
import tarfile
from typing import Any

import requests


def test_curl_with_digest_creates_and_downloads(service: Any, tmp_path: Any) -> None:
    content = {"WiredTiger": b"WiredTiger\n", "journal/log": os.urandom(300_000), "a.wt": bytes(200_000)}
    snapshot = service.stored_snapshot(content)
    body = f'{{"delivery":{{"methodName":"HTTP"}},"snapshotId":"{snapshot.id}"}}'
    user = ":".join(service.owner)
    created = subprocess.run(
        [
            *("curl", "-sS", "--fail", "--digest", "--user", user, "-X", "POST", "--data", body),
            *("-H", "Content-Type: application/json", f"{service.base}/restoreJobs?pretty=true"),
        ],
        capture_output=True,
        check=True,
    )
    (document,) = json.loads(created.stdout)["results"]
    assert (document["statusName"], document["delivery"]["statusName"]) == ("IN_PROGRESS", "NOT_STARTED")
    job = service.make_ready(service.job(document["id"]))
    link, link_v3, header = service.links(job)

    target = tmp_path / "archive.tar.gz"
    subprocess.run(["curl", "-sS", "--fail", "-o", str(target), link], check=True)

    data = target.read_bytes()
    assert hashlib.sha1(service.archive_bytes(job)).hexdigest() == hashlib.sha1(data).hexdigest()
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        member = archive.extractfile(f"{job.file_name.removesuffix('.tar.gz')}/journal/log")
        assert member is not None
        assert content["journal/log"] == member.read()
    assert requests.get(link_v3, headers=header, timeout=60).status_code == 410
    shown = service.call("GET", f"{service.base}/restoreJobs/{job.id}").json()
    assert shown["delivery"]["statusName"] == "MAX_DOWNLOADS_EXCEEDED"
