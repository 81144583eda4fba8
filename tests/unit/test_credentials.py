"""API keys as they are made."""

import re
import uuid

import pytest

from ebbtide.clock import SystemClock
from ebbtide.credentials import digest_ha1, new_api_key, new_private_key
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
