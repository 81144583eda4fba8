"""Putting one batch of raw documents into a collection of the target, whatever happens on the way, exactly once.

A batch is one `insert` command, acknowledged by a majority, so what was acknowledged survives an election. After a
failure that passes it is not known which documents are there: those that are, majority committed and byte for byte the
same, are left out of the next try. A document that is there and is another one ends the load.

Some documents cannot be inserted as they are, since the server would put the current time into them. They are upserted
by a pipeline that replaces the whole document by a literal, which the server takes to the letter.

Nobody but us may write to the collection. Validators are bypassed: what was valid when it was written shall come back.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from bson.raw_bson import RawBSONDocument
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference

from ebbtide.restore.load.batches import (
    Batch,
    Documents,
    is_changed_by_insertion,
    join,
    may_hold_empty_timestamp,
)
from ebbtide.restore.load.failure import LoadFailed
from ebbtide.restore.load.inventory import RAW, Client, Document
from ebbtide.restore.load.patience import MAJORITY, Patience, acknowledged, is_passing_code

DUPLICATE_KEY = 11000
_IDS_AT_A_TIME = 1_000

Answer = Mapping[str, Any]


def insert_batch(
    target: Client, namespace: tuple[str, str], batch: Batch, *, check: Callable[[], None]
) -> Answer:
    """Put every document of the batch there; the last answer of the server.

    `check` is called while one waits. Raises LoadFailed, and PyMongo's errors where trying for a while did not help.
    """
    changed = _changed_by_insertion(batch)
    plain = _without(batch, changed) if changed else batch
    answer: Answer = {}
    if plain.count:
        answer = _insert(target, namespace, plain, check)
    if changed:
        answer = _upsert(target, namespace, [batch.document(index) for index in changed], check)
    return answer


def insert_in_order(target: Client, namespace: tuple[str, str], batch: Batch) -> Answer:
    """The same for a capped collection, whose order counts: once, or PyMongo's error, after which one begins anew."""
    answer: Answer = {}
    for is_changed, part in _runs(batch):
        if is_changed:
            answer = _checked(
                namespace, _send_upserts(target[namespace[0]], namespace[1], [part.document(0)])
            )
        else:
            answer = _checked(namespace, _send_insert(target[namespace[0]], namespace[1], part))
    return answer


def _changed_by_insertion(batch: Batch) -> list[int]:
    if not may_hold_empty_timestamp(batch.raw):
        return []
    return [index for index, document in enumerate(batch) if is_changed_by_insertion(document)]


def _without(batch: Batch, indexes: list[int]) -> Batch:
    left_out = set(indexes)
    return join([document for index, document in enumerate(batch) if index not in left_out])


def _runs(batch: Batch) -> Iterator[tuple[bool, Batch]]:
    """The batch in order, cut so that what insertion would change is alone."""
    first = 0
    for index in [*_changed_by_insertion(batch), batch.count]:
        if first < index:
            starts = tuple(start - batch.starts[first] for start in batch.starts[first : index + 1])
            yield False, Batch(raw=batch.raw[batch.starts[first] : batch.starts[index]], starts=starts)
        if index < batch.count:
            yield True, join([batch.document(index)])
        first = index + 1


# --- trying -----------------------------------------------------------------------------------------------------------


def _insert(target: Client, namespace: tuple[str, str], batch: Batch, check: Callable[[], None]) -> Answer:
    patience = Patience(check)
    database, name = namespace
    rest = batch
    while True:
        try:
            return _checked(namespace, _send_insert(target[database], name, rest))
        except PyMongoError as error:
            patience.pause(error)
        try:
            rest = _missing(target, namespace, batch)
        except PyMongoError as error:
            patience.pause(error)
        if not rest.count:
            return {}


def _upsert(
    target: Client,
    namespace: tuple[str, str],
    documents: Sequence[RawBSONDocument],
    check: Callable[[], None],
) -> Answer:
    patience = Patience(check)
    while True:
        try:
            return _checked(namespace, _send_upserts(target[namespace[0]], namespace[1], documents))
        except PyMongoError as error:
            patience.pause(error)


def _missing(target: Client, namespace: tuple[str, str], batch: Batch) -> Batch:
    """The documents of the batch that a majority of the target does not have. Raises LoadFailed for different ones."""
    collection: Collection[Any] = target[namespace[0]].get_collection(
        namespace[1],
        codec_options=RAW,
        read_concern=ReadConcern("majority"),
        read_preference=ReadPreference.PRIMARY,
    )
    documents = list(batch)
    missing: list[RawBSONDocument] = []
    for first in range(0, len(documents), _IDS_AT_A_TIME):
        some = documents[first : first + _IDS_AT_A_TIME]
        ours = {bytes(document.raw): document for document in some}
        for found in collection.find({"_id": {"$in": [document["_id"] for document in some]}}):
            if ours.pop(bytes(found.raw), None) is None:
                raise LoadFailed(
                    f"{'.'.join(namespace)}: the target holds another document under the same _id",
                    hint="somebody writes to the target; keep others off, and restore again",
                )
        missing += ours.values()
    return join(missing)


def _checked(namespace: tuple[str, str], answer: Answer) -> Answer:
    """Raises what the answer says was wrong: PyMongo's error for what passes, LoadFailed for what does not."""
    refused = answer.get("writeErrors") or []
    for problem in refused:
        if problem["code"] == DUPLICATE_KEY:
            continue
        if is_passing_code(problem["code"]):
            raise OperationFailure(problem.get("errmsg", ""), problem["code"], dict(problem))
        # Neither message nor document: both may show data.
        raise LoadFailed(
            f"{'.'.join(namespace)}: the target refuses a document with code {problem['code']}",
            hint="its log says why; it may be of a version that does not know such documents",
        )
    if refused:
        raise _Present("documents are there already", DUPLICATE_KEY, dict(answer))
    return acknowledged(answer)


class _Present(OperationFailure):
    """Some documents are there already, from an earlier try."""

    def has_error_label(self, label: str) -> bool:
        return label == "RetryableWriteError"


# --- commands ---------------------------------------------------------------------------------------------------------


def _send_insert(database: Database[Document], name: str, batch: Batch) -> Answer:
    # PyMongo counts nothing of what is sent in one piece, and a command of its own carries no transaction number: the
    # server need not remember each batch for a retry.
    return database.command(
        "insert",
        name,
        documents=[Documents(batch.raw)],
        ordered=True,
        bypassDocumentValidation=True,
        writeConcern=MAJORITY,
    )


def _send_upserts(database: Database[Document], name: str, documents: Sequence[RawBSONDocument]) -> Answer:
    # Statements are little larger than their documents: those of one batch fit in one command.
    return database.command(
        "update",
        name,
        updates=[
            {
                "q": {"_id": {"$eq": document["_id"]}},
                "u": [{"$replaceWith": {"$literal": document}}],
                "upsert": True,
            }
            for document in documents
        ],
        bypassDocumentValidation=True,
        writeConcern=MAJORITY,
    )
