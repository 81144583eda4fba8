"""Members that are not all alike: arbiters, hidden and delayed ones, tags, real host names; and names from DNS."""

import json
import socket
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from dns import resolver
from dns.exception import DNSException

from ebbtide.backup.registration_checks import RegistrationRequest
from ebbtide.domain.cluster import Cluster, HeadState
from ebbtide.domain.replica_set import TlsMode, find_member
from ebbtide.errors import InvalidInput
from ebbtide.mongod.deployment import check_uri, hosts_of
from ebbtide.testing.lab import ReplicaSetLab

from .conftest import access_to

DELAY_SECONDS = 3600


def keyfile_of(lab: ReplicaSetLab) -> str | None:
    return None if lab.keyfile_path is None else lab.keyfile_path.read_text()


def sync_source(installation: Any, cluster: Cluster) -> str:
    """Where the head's initial sync read, from the head's own log; empty until it has chosen."""
    log = installation.context.head_directory(cluster) / "mongod.log"
    entries = (json.loads(line) for line in log.read_text().splitlines() if line.startswith("{"))
    fields = {"Sync source candidate chosen": "syncSource", "Choosing primary as sync source": "primary"}
    sources = [entry["attr"][fields[entry["msg"]]] for entry in entries if entry["msg"] in fields]
    return str(sources[0]) if sources else ""


@pytest.fixture(scope="module")
def host_name() -> str:
    """This machine's own name, which resolves on it, and is no localhost reference to mongod."""
    name = socket.gethostname()
    socket.getaddrinfo(name, None)
    return name


def test_a_set_with_an_arbiter_and_real_host_names(
    installation: Any, at_work: Any, host_name: str, prove: Callable[..., None]
) -> None:
    arbiter = {2: {"arbiterOnly": True}}
    with (
        at_work(keyfile=True, host=host_name, member_settings=arbiter) as lab,
    ):
        cluster = installation.register_and_follow(lab, head_host=host_name)
        secondary = next(m for m in lab.members[:2] if m.index != lab.primary().index)
        assert secondary.address == sync_source(installation, cluster)
        prove(lab, cluster)


@pytest.mark.long
def test_an_arbiter_that_knows_its_fellows_by_certificate(
    installation: Any, at_work: Any, prove: Callable[..., None]
) -> None:
    arbiter = {2: {"arbiterOnly": True}}
    with (
        at_work(tls=TlsMode.REQUIRE, x509=True, member_settings=arbiter) as lab,
    ):
        cluster = installation.register_and_follow(lab, **access_to(lab))
        prove(lab, cluster)


@pytest.mark.long
def test_hidden_delayed_and_tagged_members(
    installation: Any, at_work: Any, prove: Callable[..., None]
) -> None:
    members = {
        1: {"hidden": True, "priority": 0, "tags": {"use": "reports"}},
        2: {"hidden": True, "priority": 0, "secondaryDelaySecs": DELAY_SECONDS, "tags": {"use": "mistakes"}},
    }
    with (
        at_work(keyfile=True, member_settings=members) as lab,
    ):
        before = configuration(lab)
        cluster = installation.register_and_follow(lab)
        # mongod might take the delayed one for any secondary; that one does not even know our user yet.
        assert lab.primary().address == sync_source(installation, cluster)
        prove(lab, cluster)
        after = configuration(lab)
        assert before["members"] == after["members"][:3]
        installation.remove(cluster)
        assert before["members"] == configuration(lab)["members"]


@pytest.mark.long
def test_where_only_a_delayed_member_is_secondary_the_primary_is_copied(
    installation: Any, at_work: Any
) -> None:
    # Without a vote: else nothing that is written would be on a majority for an hour.
    delayed = {"hidden": True, "priority": 0, "votes": 0, "secondaryDelaySecs": DELAY_SECONDS}
    with (
        at_work(members=2, member_settings={1: delayed}) as lab,
    ):
        with lab.client(w=1) as client:
            client.shop.orders.insert_one({"_id": 1})
        cluster = installation.register(lab)
        installation.wait_for_head(cluster, HeadState.SYNCING, HeadState.FOLLOWING)
        installation.wait_until(lambda: sync_source(installation, cluster), what="its source")
        assert lab.members[0].address == sync_source(installation, cluster)


def configuration(lab: ReplicaSetLab) -> dict[str, Any]:
    with lab.client() as client:
        found: dict[str, Any] = client.admin.command("replSetGetConfig")["config"]
        return found


# --- names from DNS -----------------------------------------------------------------------------------------------

DOMAIN = "shop.example.internal"


@pytest.fixture
def dns_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[ReplicaSetLab], None]:
    """A name service that knows DOMAIN: its SRV records name a lab's members, under names below example.internal."""

    def answer(lab: ReplicaSetLab) -> None:
        targets = {f"db{m.index}.example.internal": m for m in lab.members}

        def resolve(name: Any, kind: str, **_: Any) -> Any:
            if str(name).rstrip(".") == f"_mongodb._tcp.{DOMAIN}" and kind.upper() == "SRV":
                return [
                    SimpleNamespace(target=SimpleNamespace(to_text=lambda t=t, **_: t), port=m.port)
                    for t, m in targets.items()
                ]
            raise resolver.NoAnswer() if DOMAIN in str(name) else resolver.NXDOMAIN()

        real = socket.getaddrinfo

        def getaddrinfo(host: Any, *arguments: Any, **named: Any) -> Any:
            return real("127.0.0.1" if host in targets else host, *arguments, **named)

        monkeypatch.setattr(resolver, "resolve", resolve)
        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    return answer


def test_a_set_is_found_by_its_name_in_dns(
    installation: Any, lab: ReplicaSetLab, dns_of: Callable[[ReplicaSetLab], None]
) -> None:
    dns_of(lab)
    uri = f"mongodb+srv://{DOMAIN}/?tls=false"
    assert [f"db{m.index}.example.internal:{m.port}" for m in lab.members] == hosts_of(uri)
    with installation.working():
        cluster = installation.register_and_follow(lab, uri=uri)
        assert uri == installation.cluster(cluster).uri
        address = cluster.head_host, cluster.head_port
        assert find_member(configuration(lab), *address) is not None
        installation.remove(cluster)


def test_a_name_that_dns_does_not_know_is_said(
    installation: Any, lab: ReplicaSetLab, dns_of: Callable[[ReplicaSetLab], None]
) -> None:
    dns_of(lab)
    request = RegistrationRequest(name="shop", uri="mongodb+srv://nowhere.example.internal/")
    (failed,) = [check for check in installation.check(request).checks if not check.ok]
    assert failed.name == "reachable"
    assert "DNS does not tell the hosts of mongodb+srv://nowhere.example.internal" in failed.what


@pytest.mark.parametrize(
    "uri",
    [
        "mongodb+srv://a.example.org,b.example.org/",
        "mongodb+srv://a.example.org:27017/",
        "mongodb+srv://me:secret@a.example.org/",
        "mongodb+srv://a.example.org/?tlsCAFile=/etc/passwd",
        "mongodb+srv://a.example.org/?tlsAllowInvalidCertificates=true",
    ],
)
def test_a_srv_uri_is_judged_without_asking_dns(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(*_: Any, **__: Any) -> None:
        raise DNSException("asked")

    monkeypatch.setattr(resolver, "resolve", resolve)
    check_uri("mongodb+srv://a.example.org/?replicaSet=rs0&tls=false")
    with pytest.raises(InvalidInput) as refused:
        check_uri(uri)
    assert "secret" not in str(refused.value)
