"""Credentials that change, or that nobody can read any more, are given again; the set is asked first."""

import os
from dataclasses import replace
from typing import Any

import pytest

from ebbtide.backup.credential_change import CredentialsRefused, GivenCredentials, replace_credentials
from ebbtide.domain.cluster import Cluster, HeadState
from ebbtide.errors import InvalidInput, Refused
from ebbtide.sealing import ServiceKey
from ebbtide.testing.lab import BACKUP_ROLES, ReplicaSetLab


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


def failed(refused: Any) -> list[str]:
    return [check.name for check in refused.value.checks if not check.ok]


def test_credentials_are_given_again_when_they_changed_and_when_the_service_key_is_lost(
    monkeypatch: pytest.MonkeyPatch, installation: Any, keyfile_lab: ReplicaSetLab
) -> None:
    with keyfile_lab.client() as client:
        client.admin.command("createUser", "first", pwd="one", roles=list(BACKUP_ROLES))
        client.admin.command("createUser", "feeble", pwd="two", roles=["read"])
    keyfile = keyfile_lab.keyfile_text
    with installation.working():
        cluster = installation.register_and_follow(keyfile_lab, username="first", password="one")
        pid = installation.head_process(cluster).pid
        before = installation.cluster(cluster)
        with keyfile_lab.client() as client:
            client.admin.command("updateUser", "first", pwd="three")

        for given, name in (
            ({"password": "one"}, "login"),
            ({"username": "feeble", "password": "two"}, "roles"),
            ({"password": "three", "keyfile": "AAAA" * 20}, "keyfile"),
        ):
            with pytest.raises(CredentialsRefused) as refused:
                give(installation, cluster, **given)
            assert [name] == failed(refused)
        with pytest.raises(InvalidInput):
            give(installation, cluster)
        with pytest.raises(InvalidInput):
            give(installation, cluster, username="first")
        with pytest.raises(Refused, match="without TLS"):
            give(installation, cluster, tls_certificate="x")
        assert before == installation.cluster(cluster)

        give(installation, cluster, password="three")
        installation.take_snapshot(cluster)
        assert pid == installation.head_process(cluster).pid
        (event,) = installation.events(cluster, "cluster.credentials")
        assert "three" not in event.message

    lost = replace(installation.context, service_key=ServiceKey(os.urandom(32)))
    monkeypatch.setattr(installation, "context", lost)
    with pytest.raises(Refused, match="the stored password of shop cannot be read"):
        give(installation, cluster, keyfile=keyfile)
    with pytest.raises(Refused, match="the stored keyfile of shop cannot be read"):
        give(installation, cluster, password="three")
    with installation.working():
        installation.wait_until(
            lambda: "service key" in installation.head(cluster).message, what="the trouble is told"
        )
        give(installation, cluster, password="three", keyfile=keyfile)
        installation.wait_for_head(cluster, HeadState.FOLLOWING)
        # As if the head ran with another one: a mongod reads its keyfile only when it starts.
        held = lost.head_directory(cluster) / "keyfile"
        held.write_text("AAAA" * 20)
        give(installation, cluster, keyfile=keyfile)
        installation.wait_until(
            lambda: installation.events(cluster, "head.keyfile_changed"), what="a restart"
        )
        installation.wait_until(lambda: held.read_text() == keyfile, what="the keyfile")
        installation.wait_for_head(cluster, HeadState.FOLLOWING)
        installation.take_snapshot(cluster)
        installation.remove(cluster)
    with pytest.raises(Refused, match="not backed up"):
        give(installation, cluster, password="three")
