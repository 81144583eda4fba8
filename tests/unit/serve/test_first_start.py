"""The first start makes one owner, whose key is written down before it counts."""

import json
from pathlib import Path

import pytest

from ebbtide.catalog.catalog import Catalog
from ebbtide.clock import SystemClock
from ebbtide.credentials import digest_ha1
from ebbtide.data_directory import DataDirectory
from ebbtide.domain.access import Role
from ebbtide.errors import InvalidInput
from ebbtide.sealing import ServiceKey
from ebbtide.serve.first_start import OwnerKey, ensure_owner

SERVICE_KEY = ServiceKey(bytes(32))


def ensure(catalog: Catalog, directory: Path, *allow: str) -> OwnerKey | None:
    return ensure_owner(
        catalog,
        directory=DataDirectory(directory),
        service_key=SERVICE_KEY,
        clock=SystemClock(),
        base_url="http://127.0.0.1:27080",
        allow=allow,
        on_terminal=False,
    )


def test_the_owner_is_made_once_with_a_group_and_an_access_list(catalog: Catalog, tmp_path: Path) -> None:
    owner = ensure(catalog, tmp_path, "10.0.0.0/8", "127.0.0.1")
    assert owner is not None
    (group,) = catalog.groups.list_all()
    (key,) = catalog.api_keys.list_all()
    assert (group.id, "default") == (owner.group_id, group.name)
    assert key.owner
    assert [grant.role for grant in key.grants] == [Role.GLOBAL_OWNER]
    assert [entry.cidr for entry in key.access_list] == ["127.0.0.1/32", "::1/128", "10.0.0.0/8"]
    assert digest_ha1(owner.public_key, owner.private_key) == SERVICE_KEY.open(key.ha1, record_id=key.id)
    assert ensure(catalog, tmp_path) is None
    assert [key] == catalog.api_keys.list_all()


def test_the_private_key_is_in_a_private_file_and_nowhere_in_the_catalog(
    catalog: Catalog, tmp_path: Path
) -> None:
    owner = ensure(catalog, tmp_path)
    assert owner is not None
    path = tmp_path / "owner-key.json"
    assert path == owner.written_to
    assert path.stat().st_mode & 0o777 == 0o600
    assert [path] == list(tmp_path.iterdir())
    assert json.loads(path.read_text()) == {
        "base_url": "http://127.0.0.1:27080",
        "public_key": owner.public_key,
        "private_key": owner.private_key,
        "group_id": owner.group_id,
    }
    assert owner.private_key not in repr(catalog.api_keys.list_all())


def test_a_crash_before_the_catalog_took_the_key_is_put_right_by_the_next_start(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(catalog.api_keys, "insert", crash)
        with pytest.raises(KeyboardInterrupt):
            ensure(catalog, tmp_path)
    lost = json.loads((tmp_path / "owner-key.json").read_text())["public_key"]
    owner = ensure(catalog, tmp_path)
    assert owner is not None
    assert lost != owner.public_key
    assert owner.public_key == json.loads((tmp_path / "owner-key.json").read_text())["public_key"]
    assert len(catalog.groups.list_all()) == 1


def test_a_network_that_is_none_is_refused_before_anything_is_made(catalog: Catalog, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="--allow"):
        ensure(catalog, tmp_path, "everywhere")
    assert catalog.api_keys.list_all() == []
    assert list(tmp_path.iterdir()) == []
