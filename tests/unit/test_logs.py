"""The log: a readable sentence, and never a secret."""

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from ebbtide.logs import configure_logs, redact

KEY = "0123456789abcdef0123456789abcdef"
JOB = "5f0000000000000000000001"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nothing to hide", "nothing to hide"),
        (
            f"GET /backup/restore/v2/pull/{JOB}/{KEY}/rs0-1-{JOB}.tar.gz",
            f"GET /backup/restore/v2/pull/{JOB}/<key>/rs0-1-{JOB}.tar.gz",
        ),
        (f"/backup/restore/v2/pull/{JOB}/{KEY}", f"/backup/restore/v2/pull/{JOB}/<key>"),
        (f"/backup/restore/v3/pull/{JOB}/rs0.tar.gz", f"/backup/restore/v3/pull/{JOB}/rs0.tar.gz"),
        ("mongodb://u:p@db1:27017,db2/x", "mongodb://<credentials>@db1:27017,db2/x"),
        ("mongodb+srv://u:p%40@db1/", "mongodb+srv://<credentials>@db1/"),
        ("mongodb://db1:27017/", "mongodb://db1:27017/"),
        ("two: mongodb://a:b@x mongodb://c:d@y", "two: mongodb://<credentials>@x mongodb://<credentials>@y"),
        ('Authorization: Digest username="a", response="f00"', "Authorization: Digest <credentials>"),
        ("Authorization: Bearer eyJhbGciOi", "Authorization: Bearer <credentials>"),
        ("Authorization: Basic dTpw", "Authorization: Basic <credentials>"),
    ],
)
def test_what_looks_like_a_secret_is_cut_out(text: str, expected: str) -> None:
    assert expected == redact(text)
    assert expected == redact(redact(text))


@pytest.fixture
def _restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


@pytest.mark.usefixtures("_restored_logging")
def test_lines_are_json_on_standard_error_without_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(level="info", style="json")
    log = structlog.get_logger()
    log.info("cluster.added", uri="mongodb://u:p4ss@db1", count=3)
    log.debug("too.fine")
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    written = json.loads(line)
    assert written["event"] == "cluster.added"
    assert written["level"] == "info"
    assert written["count"] == 3
    assert written["uri"] == "mongodb://<credentials>@db1"


@pytest.mark.usefixtures("_restored_logging")
@pytest.mark.parametrize(
    "value",
    [
        ["mongodb://u:p4ss@db1"],
        {"uri": ("mongodb://u:p4ss@db1",)},
        ValueError("mongodb://u:p4ss@db1 does not answer"),
    ],
)
def test_no_field_is_too_deep_for_a_secret_to_be_found(
    capsys: pytest.CaptureFixture[str], value: object
) -> None:
    configure_logs(level="info", style="json")
    structlog.get_logger().info("cluster.added", value=value)
    line = capsys.readouterr().err
    assert "db1" in line
    assert "p4ss" not in line


@pytest.mark.usefixtures("_restored_logging")
def test_a_traceback_shows_no_secret(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(level="info", style="json")
    try:
        raise ValueError("mongodb://u:p4ss@db1 does not answer")
    except ValueError:
        structlog.get_logger().error("trouble", exc_info=True)
    assert "p4ss" not in capsys.readouterr().err


@pytest.mark.usefixtures("_restored_logging")
@pytest.mark.parametrize(("level", "expected"), [("info", 1), ("debug", 2)])
def test_libraries_are_logged_from_warnings_on_and_redacted(
    capsys: pytest.CaptureFixture[str], level: str, expected: int
) -> None:
    configure_logs(level=level, style="json")
    library = logging.getLogger("some.library")
    library.info("mongodb://u:p4ss@db1")
    library.warning("mongodb://u:p4ss@%s", "db1")
    lines = capsys.readouterr().err.splitlines()
    assert expected == len(lines)
    assert not any("p4ss" in line for line in lines)
