"""Settings: where values come from, and every problem reported at once."""

from pathlib import Path
from typing import Any

import pytest

from ebbtide.errors import InvalidSetting
from ebbtide.settings import NOT_SETTINGS, SETTINGS, Settings, render_reference, resolve_settings

DOCS = Path(__file__).parents[2] / "docs"


def resolve(
    *,
    flags: dict[str, Any] | None = None,
    environment: dict[str, str] | None = None,
    file: Path | None = None,
) -> Settings:
    return resolve_settings(flags=flags or {}, environment=environment or {}, file=file)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "ebbtide.toml"
    path.write_text("")
    return path


def test_defaults_are_valid_values() -> None:
    settings = resolve()
    assert {s.name: s.default for s in SETTINGS} == dict(settings.values)
    assert {"default"} == set(settings.origins.values())


def test_the_strongest_source_wins(file: Path) -> None:
    file.write_text("[head]\ncache_gb = 1.0\n[worker]\nthreads = 1\nnice = 1\n")
    environment = {"EBBTIDE_WORKER_THREADS": "2", "EBBTIDE_WORKER_NICE": "2"}
    settings = resolve(flags={"worker.nice": 3}, environment=environment, file=file)
    assert (1.0, f"file {file}") == (settings["head.cache_gb"], settings.origins["head.cache_gb"])
    assert (
        settings["worker.threads"],
        settings.origins["worker.threads"],
    ) == (2, "environment EBBTIDE_WORKER_THREADS")
    assert (settings["worker.nice"], settings.origins["worker.nice"]) == (3, "flag")
    assert (settings["worker.jobs_max"], settings.origins["worker.jobs_max"]) == (4, "default")


def test_all_problems_are_reported_together(file: Path) -> None:
    file.write_text('[head]\ncache_gb = 0.1\ncolour = "red"\n[log]\nlevel = "loud"\n')
    environment = {"EBBTIDE_WORKER_THREADS": "many", "EBBTIDE_SPEED": "11"}
    with pytest.raises(InvalidSetting) as caught:
        resolve(flags={"api.body_bytes_max": 1}, environment=environment, file=file)
    for problem in (
        f"file {file}: no setting is named head.colour",
        f"file {file}: head.cache_gb: expected GB, at least 0.25, not 0.1",
        f"file {file}: log.level: expected debug, info, warning or error, not 'loud'",
        "environment EBBTIDE_SPEED: no setting has this name",
        "environment EBBTIDE_WORKER_THREADS: worker.threads: expected number; 0: cores − 1, not 'many'",
        "flag: api.body_bytes_max: expected bytes, at least 1024, not 1",
    ):
        assert problem in caught.value.hint


@pytest.mark.parametrize("name", sorted(NOT_SETTINGS))
def test_other_names_under_the_prefix_are_left_alone(name: str) -> None:
    resolve(environment={name: "x"})


def test_variables_of_others_are_ignored() -> None:
    resolve(environment={"PATH": "/bin", "EBBTIDEX": "1"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", []), ("10.0.0.0/8", ["10.0.0.0/8"]), (" 10.0.0.1 , ::1,", ["10.0.0.1", "::1"])],
)
def test_a_list_in_the_environment_is_separated_by_commas(text: str, expected: list[str]) -> None:
    assert expected == resolve(environment={"EBBTIDE_API_ALLOW": text})["api.allow"]


def test_a_list_in_the_file_is_a_list(file: Path) -> None:
    file.write_text('[api]\nallow = ["10.0.0.0/8"]\n')
    assert resolve(file=file)["api.allow"] == ["10.0.0.0/8"]


@pytest.mark.parametrize("content", [b"[head\n", b"\xff\xfe"])
def test_a_file_that_cannot_be_read_is_named(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(InvalidSetting) as caught:
        resolve(file=file)
    assert f"file {file}: " in caught.value.hint


def test_a_missing_file_is_a_problem_only_where_it_was_named(tmp_path: Path) -> None:
    absent = tmp_path / "absent.toml"
    with pytest.raises(InvalidSetting, match="there is no such file"):
        resolve(file=absent)
    resolve_settings(flags={}, environment={}, file=absent, file_must_exist=False)


def test_a_wrong_flag_name_is_our_own_mistake() -> None:
    with pytest.raises(KeyError):
        resolve(flags={"no.such": 1})


def test_environment_names_are_distinct() -> None:
    names = [s.environment_name for s in SETTINGS]
    assert len(names) == len(set(names))
    assert NOT_SETTINGS.isdisjoint(names)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: s.name)
def test_every_setting_is_explained_in_a_sentence(setting: Any) -> None:
    assert setting.about.endswith(".")
    assert setting.expected


def test_the_page_of_settings_is_what_the_code_says() -> None:
    assert render_reference() == (DOCS / "settings.md").read_text()


def test_accessors_cast() -> None:
    settings = resolve(environment={"EBBTIDE_API_INSECURE_HTTP": "true"})
    assert settings.flag("api.insecure_http") is True
    assert settings.text("api.external_url") is None
    assert settings.number("head.cache_gb") == 0.5
    assert settings.count("worker.jobs_max") == 4


@pytest.mark.parametrize(
    "text",
    [
        'mongod = "/d"\n',
        '[mongod]\npath = "/d"\n[mongod.binaries]\n"6.0" = "/six"\n"7.0" = "/seven"\n',
        '[mongod]\npath = "/d"\n[mongod.binaries]\n6.0 = "/six"\n7.0 = "/seven"\n',
    ],
)
def test_mongods_by_version_stand_beside_the_one_for_all(file: Path, text: str) -> None:
    file.write_text(text)
    settings = resolve(file=file)
    assert settings.text("mongod") == "/d"
    expected = {"6.0": "/six", "7.0": "/seven"} if "binaries" in text else {}
    assert expected == settings.mapping("mongod.binaries")


def test_mongods_by_version_from_the_environment() -> None:
    settings = resolve(environment={"EBBTIDE_MONGOD_BINARIES": "6.0=/six, 7.0=/a=b"})
    assert settings.mapping("mongod.binaries") == {"6.0": "/six", "7.0": "/a=b"}
    with pytest.raises(InvalidSetting, match="paths by major version"):
        resolve(environment={"EBBTIDE_MONGOD_BINARIES": "/six"})
