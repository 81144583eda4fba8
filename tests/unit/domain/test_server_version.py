"""Which versions are backed up, and which mongod a head runs."""

import re
from pathlib import Path

import pytest

from ebbtide.domain.server_version import (
    SERVER_VERSIONS,
    Support,
    choose_binary,
    head_versions,
    runs_after_fcv,
    support_of,
    supported_versions,
)

PAGE = Path(__file__).parents[3] / "docs" / "versions.md"


@pytest.mark.parametrize(
    ("version", "support"),
    [
        ("4.2.6", Support.REFUSED),
        ("4.4.2", Support.TESTED),
        ("5.0.4", Support.TESTED),
        ("6.0.27", Support.TESTED),
        ("7.0.14", Support.EXPECTED),
        ("8.0.0-rc3", Support.EXPECTED),
        ("6.3.1", Support.REFUSED),
        ("3.6.23", Support.REFUSED),
        ("9.0.0", Support.REFUSED),
    ],
)
def test_support_is_that_of_the_major_version_and_unknown_ones_are_refused(
    version: str, support: Support
) -> None:
    assert support is support_of(version)


def test_people_are_told_what_is_not_refused() -> None:
    assert supported_versions() == "4.4, 5.0, 6.0, 7.0, 8.0"


def test_the_page_publishes_the_table_of_the_code() -> None:
    rows = re.findall(r"^\| (\d+\.\d+) \| (\w+) \|", PAGE.read_text(), re.MULTILINE)
    assert {version: support.value for version, support in SERVER_VERSIONS.items()} == dict(rows)


@pytest.mark.parametrize(
    ("own", "binaries", "default", "chosen"),
    [
        (None, {}, None, None),
        (None, {}, "/d", "/d"),
        (None, {"6.0": "/six"}, "/d", "/six"),
        (None, {"7.0": "/seven"}, "/d", "/d"),
        ("/own", {"6.0": "/six"}, "/d", "/own"),
    ],
)
def test_a_binary_is_the_clusters_own_then_the_versions_then_the_default(
    own: str | None, binaries: dict[str, str], default: str | None, chosen: str | None
) -> None:
    assert chosen == choose_binary("6.0", own=own, binaries=binaries, default=default)


@pytest.mark.parametrize(
    ("version", "fcv", "wanted"),
    [
        ("6.0.5", "6.0", ("6.0",)),
        ("7.0.2", "6.0", ("7.0", "6.0")),
        ("5.0.4", "4.4", ("5.0", "4.4")),
        ("6.0.5", "", ("6.0",)),
    ],
)
def test_while_the_fcv_lags_the_version_before_will_do_too(
    version: str, fcv: str, wanted: tuple[str, ...]
) -> None:
    assert wanted == head_versions(mongod_version=version, fcv=fcv)


@pytest.mark.parametrize(
    ("head_version", "fcv", "runs"),
    [("6.0.5", "6.0", True), ("6.0.5", "5.0", True), ("6.0.5", "7.0", False), ("10.0.0", "9.0", True)],
)
def test_a_head_does_not_outlive_an_fcv_above_its_own_version(
    head_version: str, fcv: str, runs: bool
) -> None:
    assert runs is runs_after_fcv(head_version=head_version, fcv=fcv)
