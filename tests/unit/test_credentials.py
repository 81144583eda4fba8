"""API keys and secrets as they are made."""

import re
import uuid
from datetime import UTC, datetime, timedelta

import pytest

from ebbtide.clock import SystemClock
from ebbtide.credentials import (
    digest_ha1,
    is_account_secret,
    new_account_secret,
    new_api_key,
    new_private_key,
)
from ebbtide.domain.access import ApiKey, Grant, Role
from ebbtide.sealing import SealBroken, ServiceKey

SERVICE_KEY = ServiceKey(bytes(32))


def make() -> tuple[ApiKey, str]:
    return new_api_key(
        description="test",
        grants=(Grant(role=Role.GLOBAL_OWNER, group_id=None),),
        access_list=(),
        owner=True,
        service_key=SERVICE_KEY,
        clock=SystemClock(),
    )


def test_ha1_is_the_md5_of_user_realm_and_password() -> None:
    # md5("zmmrboas:MMS Public API:secret"), worked out with md5sum.
    assert digest_ha1("zmmrboas", "secret") == b"96ba846bb83ac2608273d855f50d90fe"


def test_a_new_key_looks_like_the_hosted_services() -> None:
    key, private_key = make()
    assert re.fullmatch(r"[a-z]{8}", key.public_key)
    assert private_key == str(uuid.UUID(private_key))
    assert uuid.UUID(private_key).version == 4


def test_only_a_sealed_hash_is_kept() -> None:
    key, private_key = make()
    assert private_key not in repr(key)
    assert digest_ha1(key.public_key, private_key) == SERVICE_KEY.open(key.ha1, record_id=key.id)
    with pytest.raises(SealBroken):
        SERVICE_KEY.open(key.ha1, record_id="another")


def test_no_two_keys_are_alike() -> None:
    keys = [make() for _ in range(50)]
    assert len({key.public_key for key, _ in keys}) == 50
    assert len({key.id for key, _ in keys}) == 50
    assert len({new_private_key() for _ in range(50)}) == 50


def test_a_service_accounts_secret_is_kept_as_its_hash() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    kept, text = new_account_secret(now=now, life=timedelta(hours=8))
    assert re.fullmatch(r"mdb_sa_sk_[A-Za-z0-9_-]{43}", text)
    assert text[:-4] not in repr(kept)
    assert kept.masked == f"mdb_sa_sk_********{text[-4:]}"
    assert is_account_secret(text, kept)
    assert not any(
        is_account_secret(other, kept) for other in ("", text[:-1], f"{text} ", kept.sha256, "\udcff")
    )
    assert [kept.is_expired(now + timedelta(hours=hours)) for hours in (0, 7.9, 8)] == [False, False, True]
