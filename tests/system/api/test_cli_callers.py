"""The command line's keys and service accounts against the real API."""

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import requests

from ebbtide.cli.main import build_app, run

GROUPS = "/api/atlas/v1.0/groups"


@pytest.fixture
def ebbtide(service: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command as the owner; its document."""
    monkeypatch.setenv("EBBTIDE_URL", service.url)
    monkeypatch.setenv("EBBTIDE_PUBLIC_KEY", service.owner[0])
    monkeypatch.setenv("EBBTIDE_PRIVATE_KEY", service.owner[1])

    def ask(*arguments: str) -> Any:
        capsys.readouterr()
        code = run([*arguments, "-o", "json"])
        shown = capsys.readouterr()
        assert code == 0, shown.err
        # The service runs in this process, and logs to the same place.
        begin = re.search(r"^[\[{]", shown.out, re.MULTILINE)
        assert begin is not None, shown.out
        return json.JSONDecoder().raw_decode(shown.out[begin.start() :])[0]

    return ask


def test_a_key_from_its_making_to_its_end(service: Any, ebbtide: Any) -> None:
    made = ebbtide(
        "keys", "create", "--role", "GROUP_READ_ONLY", "--description", "x", "--allow", "127.0.0.1"
    )
    name = made["publicKey"]
    assert service.call("GET", GROUPS, key=(name, made["privateKey"])).status_code == 200
    assert "privateKey" not in ebbtide("keys", "show", name)
    assert ebbtide("keys", "change", name, "--role", "GROUP_OWNER")["grants"][0]["role"] == "GROUP_OWNER"
    rotated = ebbtide("keys", "rotate", name)
    assert service.call("GET", GROUPS, key=(name, made["privateKey"])).status_code == 401
    assert service.call("GET", GROUPS, key=(name, rotated["privateKey"])).status_code == 200
    ebbtide("keys", "revoke", name)
    assert service.call("GET", GROUPS, key=(name, rotated["privateKey"])).status_code == 401
    assert name not in [key["publicKey"] for key in ebbtide("keys", "list")]


def test_a_key_is_made_with_an_end(ebbtide: Any) -> None:
    made = ebbtide("keys", "create", "--role", "GLOBAL_READ_ONLY", "--expires-in", "90d")
    left = datetime.fromisoformat(made["expires"]) - datetime.now(UTC)
    assert timedelta(days=89) < left <= timedelta(days=90)
    assert run(["keys", "create", "--role", "GLOBAL_READ_ONLY", "--expires-in", "soon"]) == 2


def test_a_service_account_from_its_making_to_its_end(service: Any, ebbtide: Any) -> None:
    made = ebbtide("service-accounts", "create", "deploy", "--role", "GLOBAL_READ_ONLY")
    name, first = made["clientId"], made["secrets"][0]
    added = ebbtide("service-accounts", "add-secret", name, "--expires-after-hours", "24")
    (second,) = [secret["secret"] for secret in added["secrets"] if "secret" in secret]
    ebbtide("service-accounts", "remove-secret", name, first["id"])

    def ask(secret: str) -> int:
        form = {"grant_type": "client_credentials"}
        url = f"{service.url}/api/oauth/token"
        return requests.post(url, auth=(name, secret), data=form, timeout=30).status_code

    assert [ask(first["secret"]), ask(second)] == [401, 200]
    allowed = ebbtide("service-accounts", "allow", name, "192.0.2.0/24")
    assert [entry["cidrBlock"] for entry in allowed["accessList"]] == ["192.0.2.0/24"]
    assert ebbtide("service-accounts", "disallow", name, "192.0.2.0/24")["accessList"] == []
    ebbtide("service-accounts", "remove", name)
    assert ask(second) == 401


def test_a_shell_completes_keys_accounts_members_projects_and_roles(
    service: Any, ebbtide: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = ebbtide("keys", "create", "--role", "GROUP_READ_ONLY", "--group", service.group.id)["publicKey"]
    account = ebbtide("service-accounts", "create", "x", "--role", "GLOBAL_READ_ONLY")["clientId"]

    def completed(typed: str) -> list[str]:
        monkeypatch.setenv("_EBBTIDE_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", f"ebbtide {typed}")
        monkeypatch.setenv("COMP_CWORD", str(len(f"{typed}|".split(" "))))
        capsys.readouterr()
        with pytest.raises(SystemExit):
            build_app()(prog_name="ebbtide", args=[], standalone_mode=False)
        # The service runs in this process, and logs to the same place: its lines have spaces, a name has none.
        return [line for line in capsys.readouterr().out.splitlines() if line and " " not in line]

    assert completed(f"keys show {key[:4]}") == [key]
    assert account in completed("service-accounts show ")
    assert {key, account} <= set(completed(f"members remove --group {service.group.id} "))
    assert completed("members list --group Proj") == [service.group.name]
    assert completed("members set x GROUP_R") == ["GROUP_READ_ONLY"]
    assert completed("keys create --role GLOBAL_O") == ["GLOBAL_OWNER"]
    monkeypatch.setenv("EBBTIDE_PRIVATE_KEY", "wrong")
    assert completed("members remove ") == []


def test_projects_and_who_is_in_them(service: Any, ebbtide: Any) -> None:
    made = ebbtide("projects", "add", "typed")
    assert (made["name"], made["clusterCount"]) == ("typed", 0)
    assert ebbtide("projects", "rename", "typed", "renamed")["id"] == made["id"]
    assert ebbtide("projects", "show", "renamed")["name"] == "renamed"
    assert made["id"] in [project["id"] for project in ebbtide("projects", "list")]

    newcomer, _ = service.new_key(None)
    roles = ["GROUP_READ_ONLY", "GROUP_BACKUP_ADMIN"]
    assert roles == ebbtide("members", "set", newcomer, *roles, "--group", "renamed")["roles"]
    members = {member["name"]: member["roles"] for member in ebbtide("members", "list", "--group", "renamed")}
    assert roles == members[newcomer]
    assert ebbtide("members", "remove", newcomer, "--group", made["id"])["roles"] == []
    assert newcomer not in [m["name"] for m in ebbtide("members", "list", "--group", "renamed")]
