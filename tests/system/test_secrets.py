"""Everything at debug, a set with keyfile and password, the whole way to a download: no secret is anywhere it must not be.

Each secret in use is looked for, in every spelling in which it could be written down, in all logs, events, the whole
catalog, every stored object (as it is and inflated), and the command lines and environments of all processes, sampled
while it all happens. The only places where a secret may be are the files named in `ALLOWED`, of mode 0600.
"""

import base64
import binascii
import gzip
import io
import json
import secrets
import stat
import tarfile
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import bson
import httpx
import pytest

from ebbtide.catalog.connection import DATABASE_NAME, connect
from ebbtide.cli.api_errors import ApiRefusal
from ebbtide.credentials import digest_ha1
from ebbtide.data_directory import DataDirectory
from ebbtide.domain.automated_restore import RESTORE_ROLES
from ebbtide.settings import resolve_settings
from ebbtide.testing.lab import ReplicaSetLab
from ebbtide.testing.running_service import RunningService
from ebbtide.testing.service import Document, Owner

RESTORE_USER = "restorer"
ALLOWED = {"owner-key.json", "secret.key", "keyfile"}
SAMPLE_SECONDS = 0.1


class ProcessSampler:
    """Collects what the kernel shows of the service's processes while it runs. Use it in a `with`."""

    def __init__(self, service: RunningService) -> None:
        self.seen: dict[str, set[bytes]] = {}
        self._service = service
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="sampler")

    def __enter__(self) -> "ProcessSampler":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            for role, pids in self._service.process_ids().items():
                for pid in pids:
                    for name in ("cmdline", "environ"):
                        try:
                            content = Path(f"/proc/{pid}/{name}").read_bytes()
                        except OSError:
                            continue
                        self.seen.setdefault(f"{name} of {role}", set()).add(content)


class Evidence:
    """What one whole walk left behind, and the secrets that it used."""

    def __init__(self, owner: Owner, sampler: ProcessSampler) -> None:
        self.owner = owner
        self.data = owner.service.data
        self.sampler = sampler
        self.archive = b""
        self.job: Document = {}
        self.catalog = b""
        self.restore_password = secrets.token_urlsafe(18)
        self.events = b""

    def walk(self) -> None:
        """Register, snapshot, restore, and download by both kinds of link."""
        self.owner.register()
        self.owner.write()
        snapshot = self.owner.take_snapshot()
        self.restore_into_itself(snapshot["id"])
        self.job = self.owner.wait_until_ready(self.owner.start_restore(snapshot["id"]))
        self.owner.wait_until_hashed(self.job["id"])
        self.archive = self.owner.download(self.job)
        with httpx.Client(trust_env=False, timeout=60) as client:
            assert client.get(self.job["delivery"]["url"]).content == self.archive
            # A wrong key and a wrong password must not be logged either, being nearly right ones.
            url = self.job["delivery"]["url"]
            assert client.get(url.replace(self.link_key(), self.link_key()[::-1])).status_code >= 400
        self.events = json.dumps(self.owner.events()).encode()
        self.catalog = dump_catalog(self.data)

    def restore_into_itself(self, snapshot_id: str) -> None:
        """Consent, with a wrong password first and then the right one, and an automated restore."""
        owner = self.owner
        with owner.lab.client(w="majority") as client:
            client.admin.command(
                "createUser", RESTORE_USER, pwd=self.restore_password, roles=list(RESTORE_ROLES)
            )
        consent = {"enabled": True, "username": RESTORE_USER, "password": self.restore_password}
        nearly = consent | {"password": self.restore_password[:-1]}
        with pytest.raises(ApiRefusal):
            owner.client.set_restore_target(owner.group_id, owner.name, nearly)
        owner.client.set_restore_target(owner.group_id, owner.name, consent)
        job = owner.client.create_automated_restore(
            owner.group_id, owner.name, {"targetClusterName": owner.name, "snapshotId": snapshot_id}
        )
        owner.wait_until_ready(str(job["id"]))

    def link_key(self) -> str:
        """The key as it is written in a v2 link."""
        return str(self.job["delivery"]["url"]).split("/")[-2]

    def secrets(self) -> dict[str, bytes]:
        """Every spelling of every secret, by a name that may be shown."""
        connection = self.owner.service.connection
        service_key = (self.data / "secret.key").read_bytes()
        password = str(self.owner.lab.backup_password).encode()
        if self.owner.lab.keyfile_path is None:
            raise LookupError("the lab has no keyfile")
        keyfile = self.owner.lab.keyfile_path.read_bytes().strip()
        download_key = str(self.job["delivery"]["authValue"]).encode()
        ha1 = digest_ha1(connection.public_key, connection.private_key)
        return {
            "private key": connection.private_key.encode(),
            "HA1": ha1,
            "HA1 as bytes": binascii.unhexlify(ha1),
            "backup password": password,
            "backup password in base64": base64.b64encode(password),
            # Without its end: a password that is nearly right must not be written down either.
            "restore password": self.restore_password[:-1].encode(),
            "restore password in base64": base64.b64encode(self.restore_password.encode()),
            "keyfile": keyfile,
            "start of the keyfile": keyfile[:32],
            "keyfile's bytes": base64.b64decode(keyfile)[:32],
            "download key": download_key,
            "download key as bytes": binascii.unhexlify(download_key),
            "download key in base64": base64.b64encode(download_key).rstrip(b"="),
            "download key in the link": self.link_key().rstrip("=").encode(),
            "service key": service_key,
            "service key in hex": binascii.hexlify(service_key),
            "service key in base64": base64.b64encode(service_key).rstrip(b"="),
            "service key in URL base64": base64.urlsafe_b64encode(service_key).rstrip(b"="),
        }

    def find(self, content: bytes) -> list[str]:
        """Names of the secrets in `content`."""
        return [name for name, secret in self.secrets().items() if secret in content]


def dump_catalog(data: Path) -> bytes:
    """Every document of every database of the catalog, as BSON."""
    settings = resolve_settings(flags={}, environment={}, file=None)
    dumped = []
    with connect(DataDirectory.at(data).catalog_uri(settings)) as client:
        assert DATABASE_NAME in client.list_database_names()
        for database in client.list_database_names():
            for collection in client[database].list_collection_names():
                dumped += [bson.encode(document) for document in client[database][collection].find()]
    return b"".join(dumped)


def iter_inflated(content: bytes) -> Iterator[bytes]:
    """What each gzip or zlib stream that begins anywhere in `content` holds."""
    for magic, window in ((b"\x1f\x8b\x08", 31), (b"\x78\x9c", 15), (b"\x78\x01", 15)):
        place = content.find(magic)
        while place >= 0:
            inflater = zlib.decompressobj(window)
            try:
                yield inflater.decompress(content[place:], 2**26)
                consumed = len(content) - place - len(inflater.unused_data) if inflater.eof else 1
            except zlib.error:
                consumed = 1
            place = content.find(magic, place + consumed)


@pytest.fixture(scope="module")
def evidence(
    new_service: Callable[..., RunningService], shared_keyfile_lab: ReplicaSetLab
) -> Iterator[Evidence]:
    shared_keyfile_lab.reset()
    service = new_service(environment={"EBBTIDE_LOG_LEVEL": "debug"})
    with ProcessSampler(service) as sampler, service:
        owner = Owner(service, shared_keyfile_lab)
        try:
            found = Evidence(owner, sampler)
            found.walk()
            yield found
        finally:
            owner.close()


def test_no_log_holds_a_secret(evidence: Evidence) -> None:
    logs = [evidence.owner.service.log_path, *evidence.data.rglob("*.log*")]

    assert len(logs) >= 3
    assert "DEBUG" in evidence.owner.service.log_text()
    for log in logs:
        assert evidence.find(log.read_bytes()) == [], log


def test_neither_events_nor_catalog_hold_a_secret(evidence: Evidence) -> None:
    assert len(evidence.catalog) > 1000
    assert evidence.find(evidence.events) == []
    assert evidence.find(evidence.catalog) == []


def test_no_stored_object_holds_a_secret(evidence: Evidence) -> None:
    objects = [path for path in (evidence.data / "repository").rglob("*") if path.is_file()]
    inflated_bytes = 0

    assert len(objects) > 3
    for path in objects:
        content = path.read_bytes()
        assert evidence.find(content) == [], path.name
        for inflated in iter_inflated(content):
            inflated_bytes += len(inflated)
            assert evidence.find(inflated) == [], path.name
    assert inflated_bytes > 1024**2


def test_the_archive_holds_no_secret(evidence: Evidence) -> None:
    with (
        gzip.GzipFile(fileobj=io.BytesIO(evidence.archive)) as plain,
        tarfile.open(fileobj=plain, mode="r|") as archive,
    ):
        names = []
        for member in archive:
            file = archive.extractfile(member)
            names.append(member.name.rpartition("/")[2])
            assert file is None or evidence.find(file.read()) == [], member.name
    assert "restoreInfo.txt" in names
    assert "WiredTiger.backup" in names


def test_no_command_line_and_no_environment_holds_a_secret(evidence: Evidence) -> None:
    roles = {name.rpartition(" ")[2] for name in evidence.sampler.seen}

    assert roles == {"serve", "api", "worker", "catalog", "head"}
    for name, contents in evidence.sampler.seen.items():
        for content in contents:
            assert evidence.find(content) == [], name


def test_secrets_are_in_the_named_private_files_only(evidence: Evidence) -> None:
    holders = set()
    for path in evidence.data.rglob("*"):
        relative = path.relative_to(evidence.data)
        # What is in databases is looked at through the catalog and the archive.
        if "db" in relative.parts or not path.is_file() or relative.parts[0] == "repository":
            continue
        if evidence.find(path.read_bytes()):
            holders.add(path.name)
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, relative
    assert holders == ALLOWED
