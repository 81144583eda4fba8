"""Every command against a scripted API: its JSON, its text, its exit code."""

import json
from pathlib import Path
from typing import Any

import pytest
from scripted_api import PRIVATE_KEY, Archive, error, listing

from ebbtide.cli.main import PROGRAM, build_app, run, wants_json
from ebbtide.cli.render.reference import iter_help

GROUP = "a" * 24
CLUSTER = "b" * 24
SNAPSHOT = "c" * 24
JOB = "e" * 24
OWN = f"/api/ebbtide/v1/groups/{GROUP}"
ATLAS = f"/api/atlas/v1.0/groups/{GROUP}"
FILE = f"rs0-1700000000-{JOB}.tar.gz"
LINK = f"/backup/restore/v3/pull/{JOB}/{FILE}"

HEAD = {"state": "FOLLOWING", "stateSince": "2024-05-01T10:00:00Z", "host": "h", "port": 1, "lagSeconds": 0.4}
SHOP = {
    "id": CLUSTER,
    "groupId": GROUP,
    "name": "shop",
    "replicaSetName": "rs0",
    "mongodVersion": "6.0.5",
    "fcv": "6.0",
    "state": "ACTIVE",
    "created": "2024-05-01T09:00:00Z",
    "head": HEAD | {"restarts": 0},
    "lastSnapshot": {
        "id": SNAPSHOT,
        "created": "2024-05-01T11:00:00Z",
        "storedBytes": 10,
        "newStoredBytes": 5,
    },
    "links": [],
}
SNAP = {
    "id": SNAPSHOT,
    "clusterId": CLUSTER,
    "clusterName": "shop",
    "state": "COMPLETE",
    "created": "2024-05-01T11:00:00Z",
    "stableTimestamp": {"date": "2024-05-01T10:59:58Z", "increment": 3},
    "fileSizeBytes": 1_000_000_000,
    "storedBytes": 300_000_000,
    "newStoredBytes": 2_000_000,
    "lockSeconds": 0.21,
}
TAKING = SNAP | {
    "state": "IN_PROGRESS",
    "job": {
        "state": "RUNNING",
        "step": "store",
        "progress": {"phase": "storing", "done": 5, "total": 10, "unit": "bytes", "secondsLeft": 3},
    },
}
OWN_JOB = {
    "id": JOB,
    "clusterId": CLUSTER,
    "clusterName": "shop",
    "snapshotId": SNAPSHOT,
    "statusName": "FINISHED",
    "deliveryStatusName": "READY",
    "fileName": FILE,
    "completedDownloads": 0,
    "maxDownloads": 10,
    "transfers": [],
}
KEY = {
    "publicKey": "zmmrboas",
    "owner": True,
    "description": "owner",
    "grants": [{"role": "GLOBAL_OWNER"}],
    "accessList": [{"cidrBlock": "127.0.0.1/32", "ipAddress": "127.0.0.1"}],
}
EVENT = {
    "id": "1",
    "time": "2024-05-01T10:00:00Z",
    "level": "INFO",
    "kind": "x",
    "message": "it \x1b[31mhappened",
}
CHECKED = {
    "dryRun": True,
    "ok": True,
    "checks": [{"name": "reachable", "ok": True, "what": "db1 answers", "fix": ""}],
    "head": {"host": "backup", "port": 27100},
    "needs": {"diskBytes": 5_000_000_000, "memoryBytes": 750_000_000},
}


def atlas_job(base_url: str, archive: Archive, status: str = "FINISHED", delivery: str = "READY") -> Any:
    return {
        "id": JOB,
        "clusterId": CLUSTER,
        "clusterName": "shop",
        "snapshotId": SNAPSHOT,
        "created": "2024-05-01T12:00:00Z",
        "statusName": status,
        "delivery": {
            "methodName": "HTTP",
            "statusName": delivery,
            "maxDownloads": 10,
            "expires": "2024-05-02T12:00:00Z",
            "url": f"{base_url}/v2/{archive.key}/{FILE}",
            "urlV2": base_url + LINK,
            "authHeader": "Authorization",
            "authBearer": "Bearer",
            "authValue": archive.key,
        },
        "hashes": [{"typeName": "SHA1", "fileName": FILE, "hash": archive.sha1}],
    }


@pytest.fixture
def shop(connected: Any) -> Any:
    """An API with one cluster, one snapshot, one restore job ready to be downloaded."""
    archive = Archive(b"archive" * 1000)
    connected.archives[LINK] = archive
    job = atlas_job(connected.base_url, archive)
    connected.answer("GET", f"{OWN}/clusters", listing(SHOP))
    connected.answer("GET", f"{OWN}/clusters/shop", SHOP)
    connected.compute("POST", f"{OWN}/clusters", lambda body: (200, CHECKED if body.get("dryRun") else SHOP))
    connected.answer("DELETE", f"{OWN}/clusters/{CLUSTER}", SHOP | {"state": "REMOVING"}, status=202)
    for what in ("rejoin", "pause", "resume", "certificate", "credentials"):
        connected.answer("POST", f"{OWN}/clusters/shop/{what}", SHOP, status=202)
    connected.answer("PATCH", f"{OWN}/clusters/shop", SHOP, status=202)
    detached = SHOP | {"state": "REMOVING", "removalCommand": 'rs.remove("h:1")'}
    connected.answer("POST", f"{OWN}/clusters/{CLUSTER}/detach", detached, status=202)
    connected.answer("GET", f"{OWN}/clusters/shop/snapshots", listing(SNAP))
    connected.answer("POST", f"{OWN}/clusters/shop/snapshots", TAKING)
    connected.answer("GET", f"{OWN}/clusters/shop/snapshots/{SNAPSHOT}", TAKING, SNAP)
    connected.answer("POST", f"{ATLAS}/clusters/shop/restoreJobs", listing(job))
    connected.answer("GET", f"{ATLAS}/clusters/shop/restoreJobs", listing(job))
    connected.answer("GET", f"{ATLAS}/clusters/{CLUSTER}/restoreJobs/{JOB}", job)
    connected.answer("GET", f"{OWN}/restoreJobs/{JOB}", OWN_JOB | {"statusName": "IN_PROGRESS"}, OWN_JOB)
    connected.answer("POST", f"{OWN}/restoreJobs/{JOB}/cancel", OWN_JOB | {"statusName": "KILLED"})
    connected.answer("GET", f"{OWN}/events", listing(EVENT))
    connected.answer("GET", "/api/ebbtide/v1/keys", listing(KEY))
    connected.answer("POST", "/api/ebbtide/v1/keys/zmmrboas/accessList", KEY)
    connected.answer("DELETE", "/api/ebbtide/v1/keys/zmmrboas/accessList/192.0.2.0%2F24", KEY)
    return connected


COMMANDS = {
    "clusters add": ["shop", "--uri", "mongodb://db1/?replicaSet=rs0"],
    "clusters list": [],
    "clusters show": ["shop"],
    "clusters watch": ["shop"],
    "clusters remove": ["shop", "--yes"],
    "clusters rejoin": ["shop"],
    "clusters detach": ["shop", "--force", "--yes"],
    "clusters pause": ["shop"],
    "clusters resume": ["shop"],
    # Any file of text will do: the answer is canned.
    "clusters certificate": ["shop", "--tls-certificate", __file__],
    "clusters credentials": ["shop", "--keyfile", __file__],
    "clusters set": ["shop", "--mongod", "/opt/mongodb-7.0/bin/mongod"],
    "snapshots create": ["shop"],
    "snapshots list": ["shop"],
    "snapshots show": ["shop"],
    "snapshots watch": ["shop"],
    "restores start": ["shop", "--wait"],
    "restores list": ["shop"],
    "restores show": [JOB],
    "restores watch": [JOB],
    "restores download": [JOB],
    "restores cancel": [JOB],
    "events list": ["shop"],
    "keys list": [],
    "keys allow": ["zmmrboas", "192.0.2.0/24", "::1"],
    "keys disallow": ["zmmrboas", "192.0.2.0/24"],
    "config show": [],
    "config reference": [],
    "config path": [],
}
NOT_HERE = {
    *("keys reset-owner", "restores prepare"),  # they work on a directory
    *("restores plan", "restores undo"),  # test_automated_commands.py
    # test_access_commands.py
    *("keys show", "keys create", "keys change", "keys rotate", "keys revoke"),
    # test_upkeep_commands.py
    *("snapshots keep", "snapshots expire", "snapshots delete", "snapshots undelete"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_prints_json_and_nothing_else_on_stdout(
    shop: Any, ebbtide: Any, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if command == "config show":
        for name in ("EBBTIDE_URL", "EBBTIDE_PUBLIC_KEY", "EBBTIDE_PRIVATE_KEY"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    outcome = ebbtide(*command.split(), *COMMANDS[command], "-o", "json")
    assert (outcome.code, outcome.stderr.count("error")) == (0, 0), outcome.stderr
    documents = outcome.stdout.splitlines() if command.endswith("watch") else [outcome.stdout]
    for document in documents:
        json.loads(document)
    assert shop.archives[LINK].key not in outcome.stdout + outcome.stderr
    assert PRIVATE_KEY not in outcome.stdout + outcome.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_prints_text(
    shop: Any, ebbtide: Any, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = ebbtide(*command.split(), *COMMANDS[command])
    assert outcome.code == 0, outcome.stderr
    assert outcome.stdout.strip()
    assert "\x1b" not in outcome.stdout
    assert shop.archives[LINK].key not in outcome.stdout + outcome.stderr


def test_the_table_above_misses_no_command() -> None:
    ours = {"clusters", "snapshots", "restores", "events", "keys", "config"}
    names = {
        help_.name.removeprefix(f"{PROGRAM} ")
        for help_ in iter_help(build_app(), PROGRAM)
        if not help_.is_group and help_.name.split()[1] in ours
    }
    assert names == set(COMMANDS) | NOT_HERE


def test_every_commands_help_teaches_by_example() -> None:
    without = [
        help_.name
        for help_ in iter_help(build_app(), PROGRAM)
        if not help_.is_group
        and f"Examples:\n    {help_.name}" not in help_.text
        # An example may begin with a variable or another program; its command must be in it all the same.
        and f"{help_.name} " not in help_.text.partition("Examples:")[2]
    ]
    assert without == []


# Errors


@pytest.mark.parametrize(
    ("status", "error_code", "exit_code"),
    [
        (400, "INVALID_ATTRIBUTE", 2),
        (401, None, 5),
        (401, "NOT_IN_GROUP", 5),
        (403, "IP_ADDRESS_NOT_ON_ACCESS_LIST", 5),
        (404, "CLUSTER_NAME_NOT_FOUND", 4),
        (409, "HEAD_NOT_READY", 3),
        (429, "RATE_LIMITED", 6),
        (500, "UNEXPECTED_ERROR", 6),
    ],
)
def test_what_the_api_refuses_becomes_an_exit_code_and_a_sentence(
    shop: Any, ebbtide: Any, status: int, error_code: str | None, exit_code: int
) -> None:
    shop.answer("GET", f"{OWN}/clusters/shop", error(status, error_code, "It did not work."), status=status)
    outcome = ebbtide("clusters", "show", "shop")
    assert (outcome.code, outcome.stdout) == (exit_code, "")
    assert outcome.stderr.startswith("error: It did not work.")
    assert (error_code or f"HTTP {status}") in outcome.stderr

    outcome = ebbtide("clusters", "show", "shop", "-o", "json")
    told = json.loads(outcome.stderr)["error"]
    assert (outcome.code, outcome.stdout) == (exit_code, "")
    assert (told["exitCode"], told["status"], told.get("errorCode")) == (exit_code, status, error_code)
    assert told["detail"] == "It did not work."


def test_a_wrong_private_key_is_told_with_a_hint(
    shop: Any, ebbtide: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shop.requests == []
    monkeypatch.setenv("EBBTIDE_PRIVATE_KEY", "wrong-wrong")
    outcome = ebbtide("clusters", "list")
    assert outcome.code == 5
    assert "hint: the key was not accepted" in outcome.stderr
    assert "wrong-wrong" not in outcome.stderr


def test_nobody_listening_asks_whether_serve_runs(
    connected: Any, ebbtide: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert connected.requests == []
    monkeypatch.setenv("EBBTIDE_URL", "http://127.0.0.1:1")
    outcome = ebbtide("clusters", "list")
    assert outcome.code == 6
    assert "is `ebbtide serve` running at http://127.0.0.1:1?" in outcome.stderr


def test_something_else_that_listens_is_told_from_our_api(connected: Any, ebbtide: Any) -> None:
    connected.answer("GET", "/api/atlas/v1.0/groups", b"<html>", status=200)
    outcome = ebbtide("clusters", "list")
    assert outcome.code == 6
    assert "is this URL that of an Ebbtide API?" in outcome.stderr


@pytest.mark.parametrize(
    "arguments", [["clusters", "shwo"], ["clusters", "show"], ["clusters", "list", "--nope"]]
)
def test_wrong_usage_is_2_and_points_at_help(ebbtide: Any, arguments: list[str]) -> None:
    outcome = ebbtide(*arguments)
    assert (outcome.code, outcome.stdout) == (2, "")
    assert "hint: ebbtide clusters" in outcome.stderr
    outcome = ebbtide(*arguments, "-o", "json")
    assert json.loads(outcome.stderr)["error"]["exitCode"] == 2


@pytest.mark.parametrize("arguments", [[], ["clusters"]])
def test_a_group_without_a_command_shows_its_help(ebbtide: Any, arguments: list[str]) -> None:
    outcome = ebbtide(*arguments)
    assert outcome.code == 2
    assert outcome.stderr.startswith("Usage: ebbtide")


def test_without_a_connection_it_says_exactly_that(ebbtide: Any) -> None:
    outcome = ebbtide("clusters", "list")
    assert outcome.code == 2
    assert "error: no connection: EBBTIDE_URL, EBBTIDE_PUBLIC_KEY and EBBTIDE_PRIVATE_KEY" in outcome.stderr
    assert "hint: the first `ebbtide serve" in outcome.stderr


def test_json_is_noticed_before_the_arguments_are_parsed() -> None:
    assert wants_json(["clusters", "list", "-o", "json"])
    assert wants_json(["--output=json"])
    assert not wants_json(["-o", "text", "json"])
    assert not wants_json(["--", "-o", "json"])


# The project


def test_of_several_projects_one_must_be_named(shop: Any, ebbtide: Any) -> None:
    groups = listing({"id": GROUP, "name": "main"}, {"id": "f" * 24, "name": "other"})
    shop.answer("GET", "/api/atlas/v1.0/groups", groups)
    outcome = ebbtide("clusters", "list")
    assert outcome.code == 2
    assert f"main ({GROUP}), other (" in outcome.stderr
    assert ebbtide("clusters", "list", "--group", "main").code == 0
    assert ebbtide("clusters", "list", "--group", GROUP).code == 0
    assert ebbtide("clusters", "list", "--group", "none").code == 4


def test_lists_are_read_page_by_page(shop: Any, ebbtide: Any) -> None:
    many = [SHOP | {"name": f"shop{number}"} for number in range(500)]
    shop.answer("GET", f"{OWN}/clusters", listing(*many), listing(SHOP))
    outcome = ebbtide("clusters", "list", "-o", "json")
    assert len(json.loads(outcome.stdout)) == 501


# Clusters


def test_add_sends_the_contents_of_files_and_no_path(shop: Any, ebbtide: Any, tmp_path: Path) -> None:
    password, keyfile = tmp_path / "password", tmp_path / "keyfile"
    password.write_text("s3cret\r\n")
    keyfile.write_text("abc\n")
    outcome = ebbtide(
        *["clusters", "add", "shop", "--uri", "mongodb://db1/?replicaSet=rs0", "--username", "u"],
        *[
            "--password-file",
            str(password),
            "--keyfile",
            str(keyfile),
            "--head-host",
            "b",
            "--head-port",
            "7",
        ],
    )
    assert outcome.code == 0
    checked, sent = shop.bodies("POST", f"{OWN}/clusters")
    assert checked == sent | {"dryRun": True}
    assert sent == {
        "name": "shop",
        "uri": "mongodb://db1/?replicaSet=rs0",
        "username": "u",
        "password": "s3cret",
        "authSource": "admin",
        "keyfile": "abc\n",
        "headHost": "b",
        "headPort": 7,
    }
    assert "next: ebbtide clusters watch shop" in outcome.stdout
    assert "5.00 GB of disk and 750 MB of memory" in outcome.stderr
    assert "s3cret" not in outcome.stdout + outcome.stderr


def test_certificates_are_sent_as_they_are_and_never_shown(shop: Any, ebbtide: Any, tmp_path: Path) -> None:
    ca, certificate = tmp_path / "ca.pem", tmp_path / "head.pem"
    ca.write_text("authority\n")
    certificate.write_text("s3cret key\n")
    files = ["--tls-ca", str(ca), "--tls-certificate", str(certificate)]
    added = ebbtide("clusters", "add", "shop", "--uri", "mongodb+srv://shop.internal", *files)
    assert added.code == 0
    sent = shop.bodies("POST", f"{OWN}/clusters")[-1]
    assert (sent["tlsCa"], sent["tlsCertificate"]) == ("authority\n", "s3cret key\n")
    renewed = ebbtide("clusters", "certificate", "shop", *files)
    assert renewed.code == 0
    (body,) = shop.bodies("POST", f"{OWN}/clusters/shop/certificate")
    assert body == {"tlsCa": "authority\n", "tlsCertificate": "s3cret key\n"}
    assert "s3cret" not in added.stdout + added.stderr + renewed.stdout + renewed.stderr


@pytest.mark.parametrize("command", ["detach", "remove"])
def test_letting_go_of_a_lost_set_prints_the_one_line_that_is_left_to_do(
    shop: Any, ebbtide: Any, command: str
) -> None:
    outcome = ebbtide("clusters", command, "shop", "--force", "--yes")
    assert outcome.code == 0
    assert outcome.stdout.splitlines()[-1].strip() == 'rs.remove("h:1")'
    assert shop.bodies("POST", f"{OWN}/clusters/{CLUSTER}/detach") == [{}]


def test_a_cluster_is_detached_only_on_purpose(shop: Any, ebbtide: Any) -> None:
    outcome = ebbtide("clusters", "detach", "shop", "--yes")
    assert outcome.code == 2
    assert "ebbtide clusters remove shop" in outcome.stderr
    assert shop.requests == []


@pytest.mark.parametrize(
    "uri",
    ["mongodb://u:hunter2@db1", "mongodb://u:hun/ter2@db1/x", "mongodb+srv://u@db1", "MONGODB://u:hunter2@x"],
)
def test_credentials_in_the_uri_are_refused_before_anything_is_sent(
    shop: Any, ebbtide: Any, uri: str
) -> None:
    outcome = ebbtide("clusters", "add", "shop", "--uri", uri)
    assert outcome.code == 2
    assert "--password-file" in outcome.stderr
    assert "ter2" not in outcome.stderr
    assert shop.requests == []


def test_failed_checks_are_all_shown_with_their_fixes_and_nothing_is_registered(
    shop: Any, ebbtide: Any
) -> None:
    failed = [
        {"name": "replica set", "ok": False, "what": "db1 is a lone server", "fix": "rs.initiate()"},
        {"name": "roles", "ok": False, "what": "no backup role", "fix": "db.createUser(…)"},
    ]
    shop.answer("POST", f"{OWN}/clusters", CHECKED | {"ok": False, "checks": CHECKED["checks"] + failed})
    outcome = ebbtide("clusters", "add", "shop", "--uri", "mongodb://db1")
    assert outcome.code == 3
    for check in failed:
        assert check["what"] in outcome.stderr
        assert f"fix: {check['fix']}" in outcome.stderr
    assert len(shop.bodies("POST", f"{OWN}/clusters")) == 1

    outcome = ebbtide("clusters", "add", "shop", "--uri", "mongodb://db1", "-o", "json")
    told = json.loads(outcome.stderr.splitlines()[-1])["error"]
    assert (told["kind"], len(told["checks"])) == ("RegistrationRefused", 3)


def test_a_dry_run_registers_nothing(shop: Any, ebbtide: Any) -> None:
    assert ebbtide("clusters", "add", "shop", "--uri", "mongodb://db1", "--dry-run").code == 0
    assert [body["dryRun"] for body in shop.bodies("POST", f"{OWN}/clusters")] == [True]


def test_watch_shows_the_initial_sync_and_ends_when_the_head_follows(shop: Any, ebbtide: Any) -> None:
    sync = {"doneBytes": 1_000_000, "totalBytes": 4_000_000, "secondsLeft": 12}
    syncing = SHOP | {"head": HEAD | {"state": "SYNCING", "initialSync": sync}}
    shop.answer("GET", f"{OWN}/clusters/shop", {**SHOP, "head": None}, syncing, SHOP)
    outcome = ebbtide("clusters", "watch", "shop")
    assert outcome.code == 0
    assert "initial sync: 1.00 MB of 4.00 MB (25 %), 12 s left" in outcome.stderr


def test_watch_of_a_failed_head_is_10(shop: Any, ebbtide: Any) -> None:
    shop.answer(
        "GET", f"{OWN}/clusters/shop", SHOP | {"head": HEAD | {"state": "FAILED", "message": "db2 cannot"}}
    )
    outcome = ebbtide("clusters", "watch", "shop")
    assert outcome.code == 10
    assert "db2 cannot" in outcome.stderr


def test_watch_outlives_a_restart_of_the_api(shop: Any, ebbtide: Any) -> None:
    shop.answers["GET", f"{OWN}/clusters/shop"] = [(503, error(503, None, "starting")), (200, SHOP)]
    assert ebbtide("clusters", "watch", "shop").code == 0


def test_remove_asks_and_without_a_terminal_wants_yes(shop: Any, ebbtide: Any) -> None:
    outcome = ebbtide("clusters", "remove", "shop")
    assert outcome.code == 2
    assert shop.bodies("DELETE", f"{OWN}/clusters/{CLUSTER}") == []


# Snapshots and restores


def test_create_tells_how_little_was_stored(shop: Any, ebbtide: Any) -> None:
    outcome = ebbtide("snapshots", "create", "shop")
    assert "1.00 GB of data files, newly stored: 2.00 MB (0.2 % of the data files)" in outcome.stdout
    assert "storing: 5 B of 10 B (50 %), 3.0 s left" in outcome.stderr
    assert shop.bodies("POST", f"{OWN}/clusters/shop/snapshots") == [{}]


def test_a_failed_snapshot_is_11(shop: Any, ebbtide: Any) -> None:
    failed = SNAP | {"state": "FAILED", "error": "the head died"}
    shop.answer("GET", f"{OWN}/clusters/shop/snapshots/{SNAPSHOT}", failed)
    outcome = ebbtide("snapshots", "create", "shop")
    assert outcome.code == 11
    assert "the head died" in outcome.stderr


def test_watch_with_json_is_one_document_a_line(shop: Any, ebbtide: Any) -> None:
    assert shop.requests == []
    outcome = ebbtide("snapshots", "watch", "shop", "-o", "json")
    assert [json.loads(line)["state"] for line in outcome.stdout.splitlines()] == ["IN_PROGRESS", "COMPLETE"]


def test_ctrl_c_is_130_and_says_what_goes_on(
    shop: Any, ebbtide: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    assert shop.requests == []
    monkeypatch.setattr("ebbtide.cli.snapshots.show_job", interrupt)
    outcome = ebbtide("snapshots", "create", "shop")
    assert outcome.code == 130
    assert f"ebbtide snapshots watch shop {SNAPSHOT}" in outcome.stderr


def test_start_asks_for_a_day_and_ten_downloads_of_the_newest_complete_snapshot(
    shop: Any, ebbtide: Any
) -> None:
    shop.answer("GET", f"{OWN}/clusters/shop/snapshots", listing(TAKING | {"id": "d" * 24}, SNAP))
    assert ebbtide("restores", "start", "shop").code == 0
    delivery = {"methodName": "HTTP", "expirationHours": 24, "maxDownloads": 10}
    assert shop.bodies("POST", f"{ATLAS}/clusters/shop/restoreJobs") == [
        {"delivery": delivery, "snapshotId": SNAPSHOT}
    ]


@pytest.mark.parametrize(("text", "hours"), [("24h", 24), ("3d", 72), ("7", 7), ("1H", 1)])
def test_expiry_is_in_hours_or_days(shop: Any, ebbtide: Any, text: str, hours: int) -> None:
    assert ebbtide("restores", "start", "shop", "--expires-in", text).code == 0
    [body] = shop.bodies("POST", f"{ATLAS}/clusters/shop/restoreJobs")
    assert body["delivery"]["expirationHours"] == hours


@pytest.mark.parametrize("text", ["0h", "30m", "", "-1h", "1.5h", "soon"])
def test_other_expiries_are_refused(shop: Any, ebbtide: Any, text: str) -> None:
    assert ebbtide("restores", "start", "shop", "--expires-in", text).code == 2
    assert shop.requests == []


def test_the_link_is_shown_only_if_asked_for(shop: Any, ebbtide: Any) -> None:
    key = shop.archives[LINK].key
    assert key not in ebbtide("restores", "show", JOB, "-o", "json").stdout
    assert key in ebbtide("restores", "show", JOB, "--link", "-o", "json").stdout


def test_download_verifies_and_says_how_to_extract(shop: Any, ebbtide: Any, tmp_path: Path) -> None:
    outcome = ebbtide("restores", "download", JOB, "--to", str(tmp_path))
    assert outcome.code == 0
    assert f"tar -xzf {tmp_path / FILE}" in outcome.stdout
    assert (tmp_path / FILE).read_bytes() == shop.archives[LINK].data


def test_download_with_another_sha1_is_8(shop: Any, ebbtide: Any, tmp_path: Path) -> None:
    other = Archive(b"other", key=shop.archives[LINK].key)
    shop.answer("GET", f"{ATLAS}/clusters/{CLUSTER}/restoreJobs/{JOB}", atlas_job(shop.base_url, other))
    outcome = ebbtide("restores", "download", JOB, "--to", str(tmp_path))
    assert outcome.code == 8
    assert not (tmp_path / FILE).exists()


def test_download_to_stdout_is_the_archive_alone(shop: Any, capfdbinary: Any) -> None:
    assert run(["restores", "download", JOB, "--to", "-", "-o", "json"]) == 0
    captured = capfdbinary.readouterr()
    assert captured.out == shop.archives[LINK].data
    assert json.loads(captured.err.splitlines()[-1])["sha1Ok"] is True


@pytest.mark.parametrize(
    ("status", "delivery", "code"),
    [
        ("BROKEN", "FAILED", 11),
        ("KILLED", "INTERRUPTED", 11),
        ("FINISHED", "FAILED", 11),
        ("FINISHED", "EXPIRED", 3),
        ("FINISHED", "MAX_DOWNLOADS_EXCEEDED", 3),
    ],
)
def test_a_job_that_cannot_be_downloaded_says_why(
    shop: Any, ebbtide: Any, status: str, delivery: str, code: int
) -> None:
    ended = OWN_JOB | {
        "statusName": status,
        "deliveryStatusName": delivery,
        "expires": "2024-05-02T12:00:00Z",
    }
    shop.answer("GET", f"{OWN}/restoreJobs/{JOB}", ended)
    assert ebbtide("restores", "watch", JOB).code == code
    assert ebbtide("restores", "download", JOB).code == code


# Keys and completion


def test_allow_sends_blocks_and_addresses_as_what_they_are(shop: Any, ebbtide: Any) -> None:
    assert ebbtide("keys", "allow", "zmmrboas", "192.0.2.0/24", "::1").code == 0
    [body] = shop.bodies("POST", "/api/ebbtide/v1/keys/zmmrboas/accessList")
    assert body == [{"cidrBlock": "192.0.2.0/24"}, {"ipAddress": "::1"}]


@pytest.mark.parametrize("address", ["192.0.2.7/24", "nonsense", "300.1.1.1"])
def test_bad_addresses_are_refused_here(shop: Any, ebbtide: Any, address: str) -> None:
    assert ebbtide("keys", "allow", "zmmrboas", address).code == 2
    assert shop.requests == []


def _complete(words: str, monkeypatch: pytest.MonkeyPatch, ebbtide: Any) -> str:
    monkeypatch.setenv("_EBBTIDE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
    with pytest.raises(SystemExit):
        ebbtide()
    monkeypatch.delenv("_EBBTIDE_COMPLETE")
    return ""


def test_names_of_clusters_complete(
    shop: Any, ebbtide: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert shop.requests == []
    _complete("ebbtide clusters show sh", monkeypatch, ebbtide)
    assert capfd.readouterr().out.strip() == "shop"


def test_completion_without_a_connection_is_silent(
    ebbtide: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    _complete("ebbtide clusters show sh", monkeypatch, ebbtide)
    captured = capfd.readouterr()
    assert (captured.out.strip(), captured.err) == ("", "")
