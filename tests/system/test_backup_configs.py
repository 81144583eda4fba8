"""A real head is started, stopped and ended through Cloud and Ops Manager's backup configurations."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from ebbtide.testing.running_service import RunningService
from ebbtide.testing.service import Owner


@pytest.fixture(scope="module")
def owner(new_service: Callable[..., RunningService], new_owner: Callable[[RunningService], Owner]) -> Owner:
    return new_owner(new_service().start())


def hidden_members(owner: Owner) -> int:
    """How many heads the set lists, as its primary says."""
    with owner.lab.client() as client:
        members = client.admin.command("replSetGetConfig")["config"]["members"]
    return sum(bool(member["hidden"]) for member in members)


def test_a_backup_is_stopped_ended_and_started_again(owner: Owner) -> None:
    cluster_id = str(owner.register()["id"])
    key = owner.service.connection
    path = f"{owner.service.base_url}/api/public/v1.0/groups/{owner.group_id}/backupConfigs/{cluster_id}"
    login = httpx.DigestAuth(key.public_key, key.private_key)
    with httpx.Client(auth=login, trust_env=False, timeout=120) as client:

        def ask(status: str) -> Any:
            return client.patch(path, json={"statusName": status}).raise_for_status().json()["statusName"]

        def wait_for(status: str) -> None:
            owner.service.wait_until(lambda: client.get(path).json()["statusName"] == status, status)

        wait_for("STARTED")
        assert hidden_members(owner) == 1
        assert ask("STOPPED") == "STOPPED"
        assert client.post(f"{owner.service.base_url}/api/ebbtide/v1/groups/{owner.group_id}/clusters/"
                           f"{owner.name}/snapshots").status_code == 409  # fmt: skip
        assert ask("TERMINATING") == "TERMINATING"
        wait_for("INACTIVE")
        assert hidden_members(owner) == 0
        assert ask("STARTED") == "PROVISIONING"
        wait_for("STARTED")
    owner.wait_until_following()
    assert hidden_members(owner) == 1
    assert owner.cluster()["id"] == cluster_id
    assert owner.take_snapshot()["state"] == "COMPLETE"
