"""The written pages: links lead somewhere, tables name what the code has, and nothing of a machine is in them."""

import ast
import re
import runpy
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

import ebbtide
from ebbtide.domain.cluster import HeadState
from ebbtide.domain.ids import ClusterId, GroupId, SnapshotId, new_id
from ebbtide.domain.optime import OplogTimestamp
from ebbtide.domain.progress import NoProgress
from ebbtide.repository.manifest import Manifest, ManifestKind
from ebbtide.repository.repository import Repository, never_cancelled
from ebbtide.repository.writer import SourceFile, stat_file, store_files
from ebbtide.storage.directory import DirectoryStorage

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", *DOCS.rglob("*.md")])
SOURCE = Path(ebbtide.__file__).parent

_FENCE = re.compile(r"^( *)(```|~~~).*?^\1\2\s*$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_KIND = re.compile(r"[a-z]+\.[a-z_]+")


def _prose(page: Path) -> str:
    """The page without fenced code."""
    return _FENCE.sub("", page.read_text())


def _anchors(page: Path) -> set[str]:
    """What `#…` may name in a page: its headings, as they are turned into anchors."""
    headings = re.findall(r"^#+ (.*)$", _prose(page), re.MULTILINE)
    kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.strip().replace(" ", "-") for heading in kept}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    broken = []
    for target in _LINK.findall(_prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        leaves = not path.is_relative_to(ROOT)
        if leaves or not path.exists() or (anchor and anchor not in _anchors(path)):
            broken.append(target)
    assert broken == []


def test_every_page_is_in_the_index() -> None:
    index = (DOCS / "README.md").read_text()
    pages = [
        page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md") if page.parent.name != "formats"
    ]
    assert [page for page in pages if page != "README.md" and f"({page})" not in index] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_nothing_of_the_machine_where_it_was_written_is_in_a_page(page: Path) -> None:
    places = {str(ROOT), str(Path.home())} - {"/"}
    found = [place for place in places if re.search(rf"{re.escape(place)}(?![\w-])", page.read_text())]
    assert found == []


def _rows(page: Path, heading: str) -> list[list[str]]:
    """The cells of the table below a heading, without its head."""
    section = page.read_text().split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def _recorders(tree: ast.Module) -> Iterator[tuple[str, set[str]]]:
    """Functions that record an event whose kind is an argument of theirs, with the level they give, if any."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef) or "kind" not in {a.arg for a in node.args.args}:
            continue
        if any(_called_name(part) == "record_event" for part in ast.walk(node)):
            yield node.name, _levels(node)


def _called_name(node: ast.AST) -> str:
    """The last part of the name of what is called; empty for what is no call."""
    if not isinstance(node, ast.Call):
        return ""
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _levels(node: ast.AST) -> set[str]:
    return {
        part.attr
        for part in ast.walk(node)
        if isinstance(part, ast.Attribute)
        and isinstance(part.value, ast.Name)
        and part.value.id == "EventLevel"
    }


RECORD_ELSEWHERE: dict[str, set[str]] = {"event": set(), "record_about": {"INFO"}}
"""What other modules call to record an event: `HeadHandle.event`, `RestoreJobRecord.event`, of keys and accounts."""


def _recorded_in_source() -> dict[str, set[str]]:
    """Every kind of event that the code records, with its levels."""
    found: dict[str, set[str]] = {}
    for path in SOURCE.rglob("*.py"):
        tree = ast.parse(path.read_text())
        recorders = RECORD_ELSEWHERE | dict(_recorders(tree))
        for node in ast.walk(tree):
            name = _called_name(node)
            if not isinstance(node, ast.Call) or (name != "record_event" and name not in recorders):
                continue
            arguments = [*node.args, *(keyword.value for keyword in node.keywords if keyword.arg == "kind")]
            kinds = [
                argument.value
                for argument in arguments
                if isinstance(argument, ast.Constant)
                and isinstance(argument.value, str)
                and _KIND.fullmatch(argument.value)
            ]
            is_passed_on = any(k.arg == "kind" and isinstance(k.value, ast.Name) for k in node.keywords)
            assert is_passed_on or len(kinds) == 1, f"{path.name}:{node.lineno}: the kind is written out"
            for kind in kinds:
                found.setdefault(kind, set()).update(_levels(node) or recorders.get(name, set()))
    return found


def test_the_table_of_events_names_what_the_code_records() -> None:
    table = {cells[0].strip("`"): {cells[1]} for cells in _rows(DOCS / "operations.md", "Events")}
    assert table == _recorded_in_source()


def test_the_table_of_states_has_every_state_of_a_head() -> None:
    table = [cells[0].strip("`") for cells in _rows(DOCS / "operations.md", "States of a head")]
    assert sorted(state.value for state in HeadState) == sorted(table)


def _recovery_script() -> str:
    (script,) = re.findall(r"^```python\n(.*?)^```$", (DOCS / "operations.md").read_text(), re.M | re.S)
    return str(script)


def _store_one_snapshot(repository_path: Path, files: Path) -> SnapshotId:
    now = datetime.now(UTC)
    repository = Repository.create(DirectoryStorage(repository_path), now=now)
    cluster_id, snapshot_id = ClusterId(new_id()), SnapshotId(new_id())
    store = repository.replica_set(cluster_id, "rs0")
    sources = [SourceFile(path=p.name, absolute=p, stat=stat_file(p)) for p in sorted(files.iterdir())]
    stored = store_files(
        store,
        sources,
        snapshot_id=snapshot_id,
        attempt=1,
        parent=None,
        full_read=True,
        threads=2,
        progress=NoProgress(),
        check_cancelled=never_cancelled,
    )
    timestamp = OplogTimestamp(1516661094, 7)
    store.commit(
        Manifest(
            kind=ManifestKind.SNAPSHOT,
            snapshot_id=snapshot_id,
            parent_id=None,
            group_id=GroupId(new_id()),
            group_name="default",
            cluster_id=cluster_id,
            cluster_name="shop",
            replica_set_name="rs0",
            created=now,
            completed=now,
            stable_timestamp=timestamp,
            applied_timestamp=timestamp,
            mongod_version="6.0.5",
            fcv="6.0",
            head_address="127.0.0.1:27117",
            oplog_file="collection-oplog.wt",
            storage={},
            data_size_bytes=1,
            storage_size_bytes=1,
            new_stored_bytes=stored.new_stored_bytes,
            last_full_read=now,
            files=stored.entries,
        )
    )
    return snapshot_id


def test_the_script_that_needs_no_catalog_lays_a_snapshot_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files, repository_path, target = tmp_path / "files", tmp_path / "repository", tmp_path / "target"
    files.mkdir()
    (files / "WiredTiger").write_bytes(b"WiredTiger\n")
    (files / "collection-0.wt").write_bytes(bytes(range(256)) * 1000)
    snapshot_id = _store_one_snapshot(repository_path, files)
    script = tmp_path / "recover.py"
    script.write_text(_recovery_script())

    monkeypatch.setattr(sys, "argv", [str(script), str(repository_path)])
    runpy.run_path(str(script))
    assert f"{snapshot_id} shop 2018-01-22 22:44:54+00:00 6.0.5\n" == capsys.readouterr().out
    assert not target.exists()

    monkeypatch.setattr(sys, "argv", [str(script), str(repository_path), snapshot_id, str(target)])
    runpy.run_path(str(script))
    assert {p.name: p.read_bytes() for p in files.iterdir()} == {
        p.name: p.read_bytes() for p in target.iterdir()
    }
