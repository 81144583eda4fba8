"""Profiles and how a connection is chosen."""

import stat
from pathlib import Path

import pytest

from ebbtide.cli.profile import (
    NoConnection,
    profiles_path,
    read_profiles,
    resolve_connection,
    write_profile,
)
from ebbtide.errors import InvalidInput, NotFound, Refused

VARIABLES = {
    "EBBTIDE_URL": "http://api:1/",
    "EBBTIDE_PUBLIC_KEY": "public",
    "EBBTIDE_PRIVATE_KEY": "private",
}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {"XDG_CONFIG_HOME": str(tmp_path), "HOME": "/nonexistent"}


def _write(environment: dict[str, str], name: str = "default", base_url: str = "http://a:1") -> Path:
    written = write_profile(
        base_url=base_url,
        public_key="p",
        private_key='s"\\\x7fü',
        group_id="a" * 24,
        name=name,
        environment=environment,
    )
    return written.path


def test_a_written_profile_is_private_and_reads_back(environment: dict[str, str]) -> None:
    path = _write(environment)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    connection = resolve_connection(profile=None, environment=environment)
    assert (
        connection.base_url,
        connection.public_key,
        connection.private_key,
        connection.group_id,
    ) == ("http://a:1", "p", 's"\\\x7fü', "a" * 24)


def test_the_private_key_is_not_in_the_repr(environment: dict[str, str]) -> None:
    _write(environment)
    assert 's"' not in repr(resolve_connection(profile=None, environment=environment))


def test_a_profile_of_another_server_is_never_overwritten(environment: dict[str, str]) -> None:
    _write(environment)
    written = write_profile(
        base_url="http://b:2", public_key="q", private_key="t", group_id=None, environment=environment
    )
    assert written.name == "default-2"
    assert {"default", "default-2"} == set(read_profiles(written.path))


def test_a_profile_of_the_same_server_is_replaced(environment: dict[str, str]) -> None:
    _write(environment)
    written = write_profile(
        base_url="http://a:1", public_key="new", private_key="t", group_id=None, environment=environment
    )
    assert read_profiles(written.path)["default"]["public_key"] == "new"


def test_odd_profile_names_survive(environment: dict[str, str]) -> None:
    _write(environment, name="my shop.eu")
    assert resolve_connection(profile="my shop.eu", environment=environment).public_key == "p"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_profile_that_others_may_read_is_refused(environment: dict[str, str], mode: int) -> None:
    path = _write(environment)
    path.chmod(mode)
    with pytest.raises(Refused) as caught:
        resolve_connection(profile=None, environment=environment)
    assert f"chmod 600 {path}" == caught.value.hint


def test_without_anything_it_says_so_and_how_to_get_a_key(environment: dict[str, str]) -> None:
    with pytest.raises(NoConnection) as caught:
        resolve_connection(profile=None, environment=environment)
    assert "EBBTIDE_URL, EBBTIDE_PUBLIC_KEY and EBBTIDE_PRIVATE_KEY" in caught.value.message
    assert "ebbtide serve" in caught.value.hint


def test_the_variables_are_stronger_than_the_default_profile(environment: dict[str, str]) -> None:
    _write(environment)
    assert resolve_connection(profile=None, environment=environment | VARIABLES).base_url == "http://api:1"


def test_a_profile_asked_for_is_stronger_than_the_variables(environment: dict[str, str]) -> None:
    _write(environment)
    found = resolve_connection(profile="default", environment=environment | VARIABLES)
    assert found.base_url == "http://a:1"


@pytest.mark.parametrize("missing", sorted(VARIABLES))
def test_a_part_of_the_variables_is_an_error_that_names_the_rest(
    environment: dict[str, str], missing: str
) -> None:
    given = {name: value for name, value in VARIABLES.items() if name != missing}
    with pytest.raises(InvalidInput, match=missing):
        resolve_connection(profile=None, environment=environment | given)


def test_an_unknown_profile_names_those_there_are(environment: dict[str, str]) -> None:
    _write(environment, name="shop")
    with pytest.raises(NotFound) as caught:
        resolve_connection(profile="other", environment=environment)
    assert "shop" in caught.value.hint


@pytest.mark.parametrize("url", ["", "ftp://a", "http://", "http://u:secret@a", "a:1", "http://a b"])
def test_bad_urls_are_refused_and_not_repeated(environment: dict[str, str], url: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        resolve_connection(profile=None, environment=environment | VARIABLES | {"EBBTIDE_URL": url or "x"})
    assert "secret" not in str(caught.value)


def test_broken_toml_is_named(environment: dict[str, str]) -> None:
    path = profiles_path(environment)
    path.parent.mkdir(parents=True)
    path.write_text("[default")
    path.chmod(0o600)
    with pytest.raises(InvalidInput, match="TOML"):
        resolve_connection(profile=None, environment=environment)


def test_a_relative_config_home_is_ignored() -> None:
    assert Path("/h/.config/ebbtide/profiles.toml") == profiles_path({"XDG_CONFIG_HOME": "x", "HOME": "/h"})
