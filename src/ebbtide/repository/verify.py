"""Reading everything a snapshot is made of, and judging it.

Unlike a restore, which stops at the first damage, verifying goes on: it lists the first damage of every MiB.
Every recipe is read, every block inflated and proved, and every pack in use compared with its own checksum;
so packs are read twice.
"""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple

from ebbtide.domain.progress import ProgressReporter
from ebbtide.errors import IntegrityError, ObjectNotFound
from ebbtide.repository.manifest import Manifest, Stretch
from ebbtide.repository.pack import check_pack
from ebbtide.repository.reader import map_ordered, open_blocks, plan_spans, read_span
from ebbtide.repository.recipe import STRETCH_BYTES
from ebbtide.repository.repository import ReplicaSetStore


@dataclass(frozen=True, kw_only=True, order=True)
class Finding:
    """One thing that is wrong, and the stored object that it is wrong with."""

    object_name: str
    problem: str


def verify_snapshot(
    store: ReplicaSetStore,
    manifest: Manifest,
    *,
    threads: int,
    progress: ProgressReporter,
    check_cancelled: Callable[[], None],
) -> list[Finding]:
    """Everything that is wrong with the stored objects of a snapshot, sorted; empty if it can be restored.

    Reports the phases `verify blocks` (plain bytes) and `verify packs`. Raises StorageError if the storage
    fails, for then nothing is known.
    """
    findings: set[Finding] = set()
    packs: set[str] = set()
    progress.phase("verify blocks", total=manifest.plain_bytes, unit="bytes")

    def judge(piece: _Piece) -> _Judgement:
        return _judge_stretch(store, manifest, piece)

    pieces = _iter_pieces(manifest)
    judged = map_ordered(judge, pieces, threads=threads, window=threads * 4, check_cancelled=check_cancelled)
    with closing(judged):
        for judgement in judged:
            findings |= judgement.findings
            packs |= judgement.pack_ids
            progress.advance(judgement.plain_bytes)

    packs = {place for pack_id in packs for place in _find_places(store, pack_id, findings)}
    progress.phase("verify packs", total=len(packs), unit="packs")

    def judge_pack(pack_id: str) -> set[Finding]:
        return _judge_pack(store, pack_id, check_cancelled)

    judged_packs = map_ordered(
        judge_pack, sorted(packs), threads=threads, window=threads * 2, check_cancelled=check_cancelled
    )
    with closing(judged_packs):
        for found in judged_packs:
            findings |= found
            progress.advance(1)
    return sorted(findings)


class _Piece(NamedTuple):
    path: str
    number: int
    stretch: Stretch


class _Judgement(NamedTuple):
    findings: set[Finding]
    pack_ids: set[str]
    plain_bytes: int


def _iter_pieces(manifest: Manifest) -> Iterator[_Piece]:
    for entry in manifest.files:
        for index, stretch in enumerate(entry.stretches):
            yield _Piece(entry.path, index, stretch)


def _judge_stretch(store: ReplicaSetStore, manifest: Manifest, piece: _Piece) -> _Judgement:
    findings: set[Finding] = set()
    what = f"{piece.path} from byte {piece.number * STRETCH_BYTES}"
    try:
        recipe = store.load_recipe(piece.stretch, snapshot_id=manifest.snapshot_id)
    except (IntegrityError, ObjectNotFound) as error:
        return _Judgement({_finding(error)}, set(), piece.stretch.plain_bytes)
    for span in plan_spans(recipe):
        try:
            data = read_span(store, recipe, span, what=what)
            for _ in open_blocks(store, recipe, span, data, what=what):
                pass
        except (IntegrityError, ObjectNotFound) as error:
            findings.add(_finding(error))
    return _Judgement(findings, recipe.pack_ids(), piece.stretch.plain_bytes)


def _find_places(store: ReplicaSetStore, pack_id: str, findings: set[Finding]) -> set[str]:
    """The packs in which the blocks of a pack are: itself, or those that they were moved to."""
    try:
        store.storage.size(store.pack_name(pack_id))
    except ObjectNotFound:
        pass
    else:
        return {pack_id}
    try:
        moved = store.find_moved(pack_id)
    except IntegrityError as error:
        findings.add(_finding(error))
        return set()
    return {pack_id} if moved is None else {extent.pack_id for extent in moved}


def _judge_pack(store: ReplicaSetStore, pack_id: str, check_cancelled: Callable[[], None]) -> set[Finding]:
    name = store.pack_name(pack_id)

    def read_range(*, start: int, length: int) -> bytes:
        return store.storage.get_range(name, start=start, length=length)

    try:
        check_pack(
            read_range,
            pack_id=pack_id,
            object_name=name,
            size_bytes=store.storage.size(name),
            check_cancelled=check_cancelled,
        )
    except (IntegrityError, ObjectNotFound) as error:
        return {_finding(error)}
    return set()


def _finding(error: IntegrityError | ObjectNotFound) -> Finding:
    problem = error.problem if isinstance(error, IntegrityError) else "is absent"
    return Finding(object_name=error.object_name, problem=problem)
