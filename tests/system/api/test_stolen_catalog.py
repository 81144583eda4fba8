"""A thief of the catalog: everything in it is tried, in every spelling and at every door, and opens none."""

import base64
import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import jwt
import pytest
import requests

from ebbtide.catalog.connection import DATABASE_NAME
from ebbtide.domain.access import Role
from ebbtide.domain.ids import is_id

GROUPS = "/api/atlas/v1.0/groups"
LEAST_LENGTH = 12


def leaves(value: Any) -> Iterator[str | bytes]:
    """Every text and every string of bytes in a document, names of fields included."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield str(name)
            yield from leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner)
    elif isinstance(value, str | bytes):
        yield value


def spellings(value: str | bytes) -> Iterator[str]:
    """How a thief could write it down; of what is too short for any key only as it is."""
    raw = value.encode() if isinstance(value, str) else value
    if isinstance(value, str):
        yield value
        if len(value) < LEAST_LENGTH:
            return
    yield raw.hex()
    yield base64.b64encode(raw).decode()
    yield base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
    if len(raw) == 32:
        # As the 32 digits of an MD5, or a hash of 32 bytes.
        yield raw.decode("latin-1")


@pytest.fixture(scope="module")
def service(start_service: Callable[..., Any]) -> Any:
    """One where guessing is not slowed, so that every guess is judged."""
    return start_service(api__failed_logins_per_minute=0, api__caller_requests_per_minute=0)


@pytest.fixture(scope="module")
def loot(service: Any) -> list[str | bytes]:
    """All that the catalog holds after everything that is secret was used."""
    service.new_key(Role.GROUP_OWNER, group_id=service.group.id)
    grants = [{"role": "GROUP_OWNER", "groupId": service.group.id}]
    made = service.call(
        "POST", "/api/ebbtide/v1/serviceAccounts", json={"name": "n", "grants": grants}
    ).json()
    requests.post(
        f"{service.url}/api/oauth/token",
        auth=(made["clientId"], made["secrets"][0]["secret"]),
        data={"grant_type": "client_credentials"},
        timeout=30,
    ).raise_for_status()
    service.ready_job(service.new_snapshot(), archive_bytes=1000)
    database = service.catalog._client[DATABASE_NAME]
    names = database.list_collection_names()
    assert {"api_keys", "service_accounts", "tokens", "signing_keys", "restore_jobs"} <= set(names)
    found = [leaf for name in names for document in database[name].find() for leaf in leaves(document)]
    return list(dict.fromkeys(found))


def digest_header(challenge: str, *, user: str, ha1: str) -> str:
    nonce = challenge.partition('nonce="')[2].partition('"')[0]
    ha2 = hashlib.md5(f"GET:{GROUPS}".encode()).hexdigest()
    response = hashlib.md5(f"{ha1}:{nonce}:00000001:c:auth:{ha2}".encode()).hexdigest()
    return (
        f'Digest username="{user}", realm="MMS Public API", nonce="{nonce}", uri="{GROUPS}", cnonce="c", '
        f'nc=00000001, qop=auth, response="{response}", algorithm=MD5'
    )


def test_the_method_would_notice_a_key_that_works(service: Any) -> None:
    user, password = service.owner
    challenge = requests.get(f"{service.url}{GROUPS}", timeout=30).headers["WWW-Authenticate"]
    ha1 = hashlib.md5(f"{user}:MMS Public API:{password}".encode()).hexdigest()
    header = digest_header(challenge, user=user, ha1=ha1)
    answer = requests.get(f"{service.url}{GROUPS}", headers={"Authorization": header}, timeout=30)
    assert answer.status_code == 200


def test_nothing_in_the_catalog_is_a_private_key_or_its_hash(service: Any, loot: list[str | bytes]) -> None:
    user = service.owner[0]
    with requests.Session() as session:
        url = f"{service.url}{GROUPS}"
        challenge = session.get(url, timeout=30).headers["WWW-Authenticate"]
        for text in {s for leaf in loot for s in spellings(leaf)}:
            hashed = hashlib.md5(f"{user}:MMS Public API:{text}".encode()).hexdigest()
            for ha1 in (hashed, text):
                header = digest_header(challenge, user=user, ha1=ha1)
                answer = session.get(url, headers={"Authorization": header}, timeout=30)
                assert answer.status_code == 401, f"{len(text)} characters logged in"


def test_nothing_in_the_catalog_is_a_secret_or_a_token(service: Any, loot: list[str | bytes]) -> None:
    (account,) = service.catalog.service_accounts.list_all()
    with requests.Session() as session:
        for text in {s for leaf in loot for s in spellings(leaf)}:
            if not text.isprintable() or not text.isascii():
                continue
            secret = text if text.startswith("mdb_sa_sk_") else f"mdb_sa_sk_{text}"
            pair = base64.b64encode(f"{account.client_id}:{secret}".encode()).decode()
            asked = session.post(
                f"{service.url}/api/oauth/token",
                headers={"Authorization": f"Basic {pair}"},
                data={"grant_type": "client_credentials"},
                timeout=30,
            )
            assert asked.status_code == 401, f"{len(text)} characters got a token"
            used = session.get(
                f"{service.url}{GROUPS}", headers={"Authorization": f"Bearer {text}"}, timeout=30
            )
            assert used.status_code == 401, f"{len(text)} characters are a token"


def test_nothing_in_the_catalog_signs_a_token(service: Any, loot: list[str | bytes]) -> None:
    """A thief knows the ids of live tokens, and of their key."""
    (account,) = service.catalog.service_accounts.list_all()
    key = service.catalog.signing_keys.newest()
    listed = service.catalog._client[DATABASE_NAME].tokens.find_one({"_id": account.id})
    claims = {"sub": account.client_id, "jti": listed["tokens"][0]["id"], "exp": 4_000_000_000}
    keys = {raw for leaf in loot for raw in (leaf if isinstance(leaf, bytes) else leaf.encode(),) if raw}
    assert any(len(raw) >= 32 for raw in keys)
    with requests.Session() as session:
        for raw in keys:
            padded = raw.ljust(32, b"\x00") if len(raw) < 32 else raw  # the library refuses shorter ones
            token = jwt.encode(claims, padded, algorithm="HS256", headers={"kid": key.id})
            answer = session.get(
                f"{service.url}{GROUPS}", headers={"Authorization": f"Bearer {token}"}, timeout=30
            )
            assert answer.status_code == 401


def test_nothing_in_the_catalog_is_a_download_key(service: Any, loot: list[str | bytes]) -> None:
    ids = [leaf for leaf in loot if is_id(leaf)]
    jobs = [job for job in (service.catalog.restore_jobs.find(i) for i in ids) if job is not None]
    assert jobs
    with requests.Session() as session:
        for job in jobs:
            for text in {s for leaf in loot for s in spellings(leaf)}:
                if text.isprintable() and text.isascii():
                    answer = session.get(
                        f"{service.url}/backup/restore/v3/pull/{job.id}/{job.file_name}",
                        headers={"Authorization": f"Bearer {text}"},
                        timeout=30,
                    )
                    assert answer.status_code == 404
