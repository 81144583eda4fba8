"""Sets that use TLS: every part proves its name to every other, and the head has a certificate of its own."""

import os
import socket
import ssl
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from bson import encode

from ebbtide.backup import registration
from ebbtide.backup.archive_wait import newest_committed
from ebbtide.backup.credential_change import CredentialsRefused, GivenCredentials, replace_credentials
from ebbtide.backup.head_requests import renew_certificate
from ebbtide.backup.registration_checks import RegistrationRequest
from ebbtide.domain.automated_restore import RESTORE_ROLES, RestoreScope, TargetState
from ebbtide.domain.cluster import Cluster, HeadState
from ebbtide.domain.event import EventLevel
from ebbtide.domain.replica_set import TlsMode
from ebbtide.domain.restore_job import DeliveryStatus, RestoreStatus
from ebbtide.domain.restore_point import AtOplog
from ebbtide.errors import InvalidInput, Refused
from ebbtide.restore.automated_request import AutomatedRequest, request_automated_restore
from ebbtide.restore.consent import RestoreAccount, allow_restores
from ebbtide.sealing import ServiceKey
from ebbtide.testing.certificates import CLIENT_UNIT, Authority
from ebbtide.testing.dbhash import database_hashes
from ebbtide.testing.lab import ReplicaSetLab

from .conftest import access_to

HOST = "127.0.0.1"


@pytest.fixture(scope="module")
def x509_lab(mongod_binary: Path) -> Iterator[ReplicaSetLab]:
    """Three members that require TLS and know each other by their certificates."""
    with ReplicaSetLab(binary=mongod_binary, tls=TlsMode.REQUIRE, x509=True) as lab:
        yield lab


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """For who is not answered anyway."""
    monkeypatch.setattr(registration, "ANSWER_SECONDS", 2.0)
    monkeypatch.setattr(registration, "ALONE_SECONDS", 1.0)


def authority(lab: ReplicaSetLab) -> Authority:
    if lab.authority is None:
        raise LookupError("the lab uses no TLS")
    return lab.authority


def problems(installation: Any, lab: ReplicaSetLab, **changes: Any) -> dict[str, tuple[str, str]]:
    """The failed checks: name → (what, fix)."""
    request = RegistrationRequest(**({"name": "shop", "uri": lab.uri, **access_to(lab)} | changes))
    return {
        check.name: (check.what, check.fix) for check in installation.check(request).checks if not check.ok
    }


def shown_certificate(lab: ReplicaSetLab, cluster: Cluster) -> str:
    """What the head shows to whoever connects."""
    context = ssl.create_default_context(cafile=str(lab.root / "ca.pem"))
    context.load_cert_chain(str(lab.root / "client.pem"))

    with (
        socket.create_connection((cluster.head_host, cluster.head_port), timeout=60) as plain,
        context.wrap_socket(plain, server_hostname=cluster.head_host) as connection,
    ):
        shown = connection.getpeercert(binary_form=True)
    return ssl.DER_cert_to_PEM_cert(shown or b"")


def test_a_set_that_knows_its_members_by_certificate_is_backed_up(
    installation: Any, x509_lab: ReplicaSetLab, prove: Callable[..., None]
) -> None:
    access = access_to(x509_lab)
    with installation.working():
        cluster = installation.register_and_follow(x509_lab, **access)
        prove(x509_lab, cluster)

        assert (cluster.tls_mode, cluster.cluster_auth_mode.value) == (TlsMode.REQUIRE, "x509")
        directory = installation.context.head_directory(cluster)
        for name in ("ca.pem", "certificate.pem"):
            assert stat.S_IMODE((directory / name).stat().st_mode) == 0o600
        key = access["tls_certificate"].partition("BEGIN PRIVATE KEY-----")[2][:60].strip()
        stored = installation.catalog.clusters._clusters.find_one({"_id": cluster.id})
        assert key.encode() not in encode(stored)
        assert key not in repr(cluster)
        assert "Invalid" not in (directory / "mongod.json").read_text()

        pid = installation.head_process(cluster).pid
        with pytest.raises(Refused, match="OU=clients"):
            renew(installation, cluster, authority(x509_lab).issue(HOST, unit=CLIENT_UNIT))
        with pytest.raises(Refused, match=r"not valid for '127\.0\.0\.1'"):
            renew(installation, cluster, authority(x509_lab).issue("elsewhere"))
        with pytest.raises(InvalidInput):
            renew(installation, cluster, "no certificate")
        other = authority(x509_lab).issue(HOST, lifetime=timedelta(days=20))
        assert shown_certificate(x509_lab, cluster) not in other
        renew(installation, cluster, other)
        installation.wait_until(lambda: shown_certificate(x509_lab, cluster) in other, what="the other one")
        warning = installation.wait_until(lambda: installation.events(cluster, "head.certificate_expires"))
        assert EventLevel.WARNING is warning[0].level
        assert "ebbtide clusters certificate shop" in warning[0].message
        assert pid == installation.head_process(cluster).pid
        installation.wait_for_head(cluster, HeadState.FOLLOWING)
        with x509_lab.client(w="majority") as client:
            client.shop.later.insert_one({})
        installation.take_snapshot(cluster)
        assert len(installation.events(cluster, "head.certificate_expires")) == 1
        installation.remove(cluster)
        assert not directory.exists()
        assert installation.cluster(cluster).tls_certificate is None


def renew(installation: Any, cluster: Cluster, certificate: str) -> None:
    renew_certificate(
        cluster,
        tls_ca=None,
        tls_certificate=certificate,
        catalog=installation.catalog,
        service_key=installation.context.service_key,
        clock=installation.context.clock,
        actor="test",
    )


@pytest.mark.usefixtures("impatient")
def test_certificates_are_given_again_as_credentials_are(
    monkeypatch: pytest.MonkeyPatch, installation: Any, x509_lab: ReplicaSetLab
) -> None:
    """Tried on the set first; a head takes another certificate without a restart; a lost service key needs all again."""
    issue, access = authority(x509_lab).issue, access_to(x509_lab)
    stranger = Authority.create("Stranger")
    with installation.working():
        cluster = installation.register_and_follow(x509_lab, **access)
        pid, before = installation.head_process(cluster).pid, installation.cluster(cluster)
        for given, name in (
            ({"tls_certificate": issue("elsewhere")}, "head's certificate"),
            ({"tls_certificate": issue(HOST, unit=CLIENT_UNIT)}, "head's membership"),
            ({"tls_ca": stranger.ca, "tls_certificate": stranger.issue(HOST)}, "TLS"),
            ({"password": "wrong"}, "login"),
        ):
            with pytest.raises(CredentialsRefused) as refused:
                give(installation, cluster, **given)
            assert [name] == [check.name for check in refused.value.checks if not check.ok]
        assert before == installation.cluster(cluster)

        second = issue(HOST)
        give(installation, cluster, tls_certificate=second)
        installation.wait_until(lambda: shown_certificate(x509_lab, cluster) in second, what="the second one")
        assert pid == installation.head_process(cluster).pid
        installation.take_snapshot(cluster)

    lost = replace(installation.context, service_key=ServiceKey(os.urandom(32)))
    monkeypatch.setattr(installation, "context", lost)
    password, third = access.get("password"), issue(HOST)
    with pytest.raises(Refused, match="the stored certificate of shop cannot be read"):
        give(installation, cluster, password=password, tls_ca=access["tls_ca"])
    with installation.working():
        give(installation, cluster, password=password, tls_certificate=third)
        installation.wait_for_head(cluster, HeadState.FOLLOWING)
        installation.wait_until(lambda: shown_certificate(x509_lab, cluster) in third, what="the third one")
        installation.take_snapshot(cluster)
        installation.remove(cluster)


def give(installation: Any, cluster: Cluster, **given: str | None) -> Cluster:
    return replace_credentials(
        installation.cluster(cluster),
        GivenCredentials(**given),
        catalog=installation.catalog,
        service_key=installation.context.service_key,
        settings=installation.context.settings,
        clock=installation.context.clock,
        actor="test",
    )


@pytest.mark.usefixtures("impatient")
def test_what_would_not_be_let_in_is_told_before_anything_is_changed(
    installation: Any, x509_lab: ReplicaSetLab
) -> None:
    issue = authority(x509_lab).issue
    without = problems(installation, x509_lab, tls_ca=None, tls_certificate=None)
    assert list(without) == ["TLS"]
    assert without["TLS"][0] == "the deployment answers with TLS only, and no certificate was given"
    assert f"names {HOST} in its subjectAltName" in without["TLS"][1]

    for certificate, name, word in (
        (issue("elsewhere"), "head's certificate", "names elsewhere, and not 127.0.0.1"),
        (issue(HOST, organization="Others"), "head's membership", "says O=Others, OU=members"),
        (issue(HOST, unit=CLIENT_UNIT), "head's membership", "says O=Ebbtide Lab, OU=clients"),
    ):
        found = problems(installation, x509_lab, tls_certificate=certificate)
        assert list(found) == [name]
        assert word in found[name][0]
        assert found[name][1]


@pytest.mark.long
@pytest.mark.usefixtures("impatient")
def test_whom_the_members_do_not_even_answer_is_told_why(installation: Any, x509_lab: ReplicaSetLab) -> None:
    issue = authority(x509_lab).issue
    # What the members do not let in as a client does not get as far as an answer.
    for certificate, word in (
        (issue(HOST, server_only=True), "not for servers and clients both"),
        (issue(HOST, lifetime=timedelta(days=-2)), "ended at"),
    ):
        found = problems(installation, x509_lab, tls_certificate=certificate)
        assert list(found) == ["reachable", "head's certificate"]
        assert word in found["head's certificate"][0]

    stranger = Authority.create("Stranger")
    unbelieved = problems(installation, x509_lab, tls_ca=stranger.ca, tls_certificate=stranger.issue(HOST))
    assert list(unbelieved) == ["TLS"]
    assert "--tls-ca must have the authority" in unbelieved["TLS"][1]


@pytest.mark.usefixtures("impatient")
def test_a_certificate_for_a_set_that_uses_no_tls(installation: Any, lab: ReplicaSetLab) -> None:
    stranger = Authority.create("Stranger")
    given = {"tls_ca": stranger.ca, "tls_certificate": stranger.issue(HOST)}
    found = problems(installation, lab, **given)
    assert found == {
        "TLS": (
            "the deployment does not use TLS, and a certificate was given",
            "leave out --tls-ca and --tls-certificate",
        )
    }


@pytest.mark.long
@pytest.mark.parametrize("mode", [TlsMode.PREFER, TlsMode.REQUIRE])
def test_a_set_with_keyfile_and_tls_is_backed_up(
    installation: Any, at_work: Any, prove: Callable[..., None], mode: TlsMode
) -> None:
    with at_work(tls=mode, keyfile=True) as lab:
        keyfile = (lab.keyfile_path or Path()).read_text()
        access = access_to(lab)
        missing = problems(installation, lab, keyfile=keyfile, tls_ca=None, tls_certificate=None)
        assert list(missing) == ["TLS"]
        assert list(problems(installation, lab)) == ["keyfile"]
        cluster = installation.register_and_follow(lab, **access, keyfile=keyfile)
        prove(lab, cluster)


@pytest.mark.long
def test_a_moment_comes_back_into_a_running_set_of_certificates(
    installation: Any, x509_lab: ReplicaSetLab
) -> None:
    """Replayed, loaded and compared as any other, all of it with TLS."""
    with installation.working():
        cluster = installation.register_and_follow(x509_lab, **access_to(x509_lab))
        with x509_lab.client(w="majority") as client:
            client.shop.orders.insert_many([{"_id": number} for number in range(1000)])
        installation.take_snapshot(cluster)
        with x509_lab.client(w="majority") as client:
            client.shop.orders.create_index("who")
            client.shop.orders.update_many({"_id": {"$lt": 500}}, {"$set": {"who": 8}})
            access = installation.context.access(installation.cluster(cluster))
            moment = newest_committed(access).timestamp
            point = AtOplog(moment.seconds, moment.increment)
            expected = database_hashes(client)["shop"]
            client.shop.drop_collection("orders")
            client.admin.command("createUser", "restorer", pwd="restorer", roles=list(RESTORE_ROLES))
        job = installation.wait_for_restore(installation.ask_for_download(cluster, point))
        assert job.state == (RestoreStatus.FINISHED, DeliveryStatus.READY), job.reason

        context = installation.context
        allow_restores(
            installation.cluster(cluster),
            RestoreAccount(username="restorer", password="restorer"),
            catalog=context.catalog,
            service_key=context.service_key,
            clock=context.clock,
            actor="test",
        )
        target, found = installation.cluster(cluster), installation.resolve(cluster, point)
        automated = request_automated_restore(
            AutomatedRequest(
                base=found.base, limit=found.limit, source=target, target=target, scope=RestoreScope()
            ),
            catalog=context.catalog,
            clock=context.clock,
            actor="test",
        )
        done = installation.wait_for_restore(automated)
        assert done.status is RestoreStatus.FINISHED, done.reason
        assert context.catalog.automated_restores.find(automated.id).target_state is TargetState.RESTORED
        with x509_lab.client(w="majority") as client:
            assert expected == database_hashes(client)["shop"]
        installation.remove(cluster)
