"""`ebbtide keys` and `ebbtide service-accounts`: what is asked, what is shown, and secrets shown once."""

import json
from typing import Any

import pytest

GROUP = "a" * 24
KEYS = "/api/ebbtide/v1/keys"
ACCOUNTS = "/api/ebbtide/v1/serviceAccounts"
CLIENT = f"mdb_sa_id_{'b' * 24}"
KEY = {
    "publicKey": "zmmrboas",
    "description": "dashboards",
    "created": "2024-05-01T12:00:00Z",
    "grants": [{"role": "GROUP_READ_ONLY", "groupId": GROUP}],
    "accessList": [],
}
SECRET = {"id": "c" * 24, "expiresAt": "2025-05-01T12:00:00Z", "maskedSecretValue": "mdb_sa_sk_********abcd"}
ACCOUNT = {
    "clientId": CLIENT,
    "name": "deploy",
    "grants": [{"role": "GLOBAL_OWNER"}],
    "accessList": [{"cidrBlock": "192.0.2.0/24"}],
    "secrets": [SECRET],
}
GROUPS = "/api/ebbtide/v1/groups"
PROJECT = {"id": GROUP, "name": "shop", "clusterCount": 1, "created": "2024-05-01T12:00:00Z"}
MEMBER = {"name": "zmmrboas", "typeName": "API_KEY", "roles": ["GROUP_OWNER"], "globalRoles": []}
MINE = {"role": "GROUP_READ_ONLY", "groupId": GROUP}


@pytest.fixture
def callers(connected: Any) -> Any:
    """An API with one project, one key and one service account."""
    listing = {"results": [KEY], "links": []}
    connected.answer("GET", KEYS, listing)
    connected.answer("POST", KEYS, KEY | {"privateKey": "the-private-key"})
    connected.answer("GET", f"{KEYS}/zmmrboas", KEY)
    connected.answer("PATCH", f"{KEYS}/zmmrboas", KEY)
    connected.answer("POST", f"{KEYS}/zmmrboas/rotate", KEY | {"privateKey": "the-private-key"})
    connected.answers["DELETE", f"{KEYS}/zmmrboas"] = [(204, b"")]
    connected.answer("GET", GROUPS, {"results": [PROJECT], "links": []})
    connected.answer("POST", GROUPS, PROJECT)
    connected.answer("GET", f"{GROUPS}/{GROUP}", PROJECT)
    connected.answer("PATCH", f"{GROUPS}/{GROUP}", PROJECT)
    connected.answer("GET", f"{GROUPS}/{GROUP}/members", {"results": [MEMBER], "links": []})
    connected.answer("PUT", f"{GROUPS}/{GROUP}/members/zmmrboas", MEMBER)
    connected.answer("GET", ACCOUNTS, {"results": [ACCOUNT], "links": []})
    shown = ACCOUNT | {"secrets": [SECRET, {"id": "d" * 24, "secret": "mdb_sa_sk_the-secret"}]}
    connected.answer("POST", ACCOUNTS, shown)
    connected.answer("GET", f"{ACCOUNTS}/{CLIENT}", ACCOUNT)
    connected.answer("PATCH", f"{ACCOUNTS}/{CLIENT}", ACCOUNT)
    connected.answers["DELETE", f"{ACCOUNTS}/{CLIENT}"] = [(204, b"")]
    connected.answer("POST", f"{ACCOUNTS}/{CLIENT}/secrets", shown)
    connected.answer("DELETE", f"{ACCOUNTS}/{CLIENT}/secrets/{'c' * 24}", ACCOUNT)
    connected.answer("POST", f"{ACCOUNTS}/{CLIENT}/accessList", ACCOUNT)
    connected.answer("DELETE", f"{ACCOUNTS}/{CLIENT}/accessList/192.0.2.0%2F24", ACCOUNT)
    return connected


COMMANDS = {
    "projects list": [],
    "projects show": [GROUP],
    "projects add": ["shop"],
    "projects rename": [GROUP, "shop"],
    "members list": [],
    "members set": ["zmmrboas", "GROUP_OWNER"],
    "members remove": ["zmmrboas"],
    "keys show": ["zmmrboas"],
    "keys create": ["--role", "GROUP_READ_ONLY"],
    "keys change": ["zmmrboas", "--description", "x"],
    "keys rotate": ["zmmrboas"],
    "keys revoke": ["zmmrboas"],
    "service-accounts list": [],
    "service-accounts show": [CLIENT],
    "service-accounts create": ["deploy", "--role", "GLOBAL_OWNER"],
    "service-accounts change": [CLIENT, "--name", "x"],
    "service-accounts add-secret": [CLIENT],
    "service-accounts remove-secret": [CLIENT, "c" * 24],
    "service-accounts remove": [CLIENT],
    "service-accounts allow": [CLIENT, "192.0.2.0/24"],
    "service-accounts disallow": [CLIENT, "192.0.2.0/24"],
}


@pytest.mark.usefixtures("callers")
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_prints_text_or_json(ebbtide: Any, command: str) -> None:
    text = ebbtide(*command.split(), *COMMANDS[command])
    assert (text.code, bool(text.stdout.strip())) == (0, True), text.stderr
    document = ebbtide(*command.split(), *COMMANDS[command], "-o", "json")
    assert (document.code, document.stderr) == (0, "")
    json.loads(document.stdout)


@pytest.mark.parametrize(
    ("options", "grants"),
    [
        (["--role", "GROUP_READ_ONLY"], [MINE]),
        (["--role", "GROUP_READ_ONLY:main"], [MINE]),
        (["--role", "GLOBAL_OWNER"], [{"role": "GLOBAL_OWNER"}]),
        (["--role", "GLOBAL_READ_ONLY", "--role", "GROUP_OWNER:main"], [{"role": "GLOBAL_READ_ONLY"}, {**MINE, "role": "GROUP_OWNER"}]),
        (["--role", f"GROUP_OWNER:{'e' * 24}"], [{"role": "GROUP_OWNER", "groupId": "e" * 24}]),
    ],
)  # fmt: skip
def test_roles_are_in_the_project_that_is_named(
    callers: Any, ebbtide: Any, options: list[str], grants: list[Any]
) -> None:
    made = ebbtide("keys", "create", *options, "--allow", "192.0.2.7", "--allow", "10.0.0.0/8")
    assert made.code == 0, made.stderr
    entries = [{"ipAddress": "192.0.2.7"}, {"cidrBlock": "10.0.0.0/8"}]
    assert callers.bodies("POST", KEYS) == [{"grants": grants, "accessList": entries}]
    assert "the-private-key" in made.stdout
    assert "not shown again" in made.stderr


def test_only_what_is_given_is_changed(callers: Any, ebbtide: Any) -> None:
    assert ebbtide("keys", "change", "zmmrboas", "--description", "x").code == 0
    assert ebbtide("keys", "change", "zmmrboas", "--role", "GROUP_READ_ONLY").code == 0
    assert callers.bodies("PATCH", f"{KEYS}/zmmrboas") == [{"description": "x"}, {"grants": [MINE]}]


def test_a_secrets_life_is_asked_for_in_hours(callers: Any, ebbtide: Any) -> None:
    made = ebbtide(
        "service-accounts", "create", "deploy", "--role", "GLOBAL_OWNER", "--expires-after-hours", "24"
    )
    assert "mdb_sa_sk_the-secret" in made.stdout
    added = ebbtide("service-accounts", "add-secret", CLIENT, "--expires-after-hours", "48")
    assert "mdb_sa_sk_the-secret" in added.stdout
    [body] = callers.bodies("POST", ACCOUNTS)
    assert (body["name"], body["secretExpiresAfterHours"]) == ("deploy", 24)
    assert callers.bodies("POST", f"{ACCOUNTS}/{CLIENT}/secrets") == [{"secretExpiresAfterHours": 48}]


def test_a_role_is_asked_for_and_an_unknown_project_refused(callers: Any, ebbtide: Any) -> None:
    assert ebbtide("keys", "create").code == 2
    assert ebbtide("keys", "create", "--role", "GROUP_OWNER:elsewhere").code == 4
    assert callers.bodies("POST", KEYS) == []
