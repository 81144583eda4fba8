"""Sealed secrets open with the right key and as part of their own record, and in no other way."""

import dataclasses
import threading
from pathlib import Path

import pytest

from ebbtide.domain.sealed import Sealed
from ebbtide.sealing import KEY_BYTES, SealBroken, ServiceKey

KEY = ServiceKey(bytes(range(KEY_BYTES)))
OTHER_KEY = ServiceKey(bytes(KEY_BYTES))


def test_what_was_sealed_opens_again() -> None:
    for secret in (b"", b"s3cret", bytes(1000)):
        assert secret == KEY.open(KEY.seal(secret, record_id="a"), record_id="a")


def test_a_sealed_value_does_not_show_the_secret_and_never_repeats() -> None:
    one, two = KEY.seal(b"s3cret", record_id="a"), KEY.seal(b"s3cret", record_id="a")
    assert b"s3cret" not in one.ciphertext
    assert one.nonce != two.nonce
    assert one.ciphertext != two.ciphertext


def test_another_key_is_named_and_refused() -> None:
    with pytest.raises(SealBroken, match=f"sealed with service key {KEY.id}") as caught:
        OTHER_KEY.open(KEY.seal(b"s3cret", record_id="a"), record_id="a")
    assert "s3cret" not in str(caught.value)


def test_a_key_that_claims_to_be_the_right_one_opens_nothing() -> None:
    sealed = dataclasses.replace(KEY.seal(b"s3cret", record_id="a"), key_id=OTHER_KEY.id)
    with pytest.raises(SealBroken):
        OTHER_KEY.open(sealed, record_id="a")


def test_a_sealed_value_moved_to_another_record_stays_shut() -> None:
    with pytest.raises(SealBroken, match="moved"):
        KEY.open(KEY.seal(b"s3cret", record_id="a"), record_id="b")


def _flipped(data: bytes, bit: int) -> bytes:
    return bytes(byte ^ (1 << bit % 8) if place == bit // 8 else byte for place, byte in enumerate(data))


def test_any_flipped_bit_is_noticed() -> None:
    sealed = KEY.seal(b"s3cret", record_id="a")
    damaged = [
        dataclasses.replace(sealed, ciphertext=_flipped(sealed.ciphertext, bit))
        for bit in range(8 * len(sealed.ciphertext))
    ]
    damaged += [dataclasses.replace(sealed, nonce=_flipped(sealed.nonce, bit)) for bit in range(8 * 12)]
    for value in damaged:
        with pytest.raises(SealBroken):
            KEY.open(value, record_id="a")


@pytest.mark.parametrize(("nonce", "ciphertext"), [(bytes(12), b""), (bytes(12), b"short"), (b"", bytes(40))])
def test_a_truncated_value_is_broken_and_nothing_worse(nonce: bytes, ciphertext: bytes) -> None:
    with pytest.raises(SealBroken):
        KEY.open(Sealed(key_id=KEY.id, nonce=nonce, ciphertext=ciphertext), record_id="a")


def test_the_key_id_tells_nothing_of_the_key_and_is_its_own() -> None:
    assert OTHER_KEY.id != KEY.id
    assert ServiceKey(bytes(range(KEY_BYTES))).id == KEY.id


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_key_of_another_length_is_refused(length: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        ServiceKey(bytes(length))
    path = tmp_path / "secret.key"
    path.write_bytes(bytes(length))
    path.chmod(0o600)
    with pytest.raises(SealBroken, match="not a service key"):
        ServiceKey.load_or_create(path)


def test_a_new_key_file_is_for_its_owner_alone_and_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "secret.key"
    created = ServiceKey.load_or_create(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert created.id == ServiceKey.load_or_create(path).id
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_key_that_others_may_read_is_refused_with_the_mend(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "secret.key"
    ServiceKey.load_or_create(path)
    path.chmod(mode)
    with pytest.raises(SealBroken, match="chmod 600"):
        ServiceKey.load_or_create(path)


def test_processes_that_start_together_get_one_key(tmp_path: Path) -> None:
    path = tmp_path / "secret.key"
    ids: list[str] = []
    start = threading.Barrier(8)

    def create() -> None:
        start.wait()
        ids.append(ServiceKey.load_or_create(path).id)

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 8
    assert len(set(ids)) == 1
    assert list(tmp_path.iterdir()) == [path]
