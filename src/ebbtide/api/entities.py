"""Answers that are one entity, with the links to what it belongs to that Cloud and Ops Manager add (contract section 3).

Their `rel` is a URL. The Atlas families show `self` alone, and so does an entity inside a list.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ebbtide.api.families import Family
from ebbtide.api.operations import Call
from ebbtide.api.responses import Answer
from ebbtide.api.wire import Document

_NAMESPACE = "http://mms.mongodb.com"


@dataclass(frozen=True)
class Relation:
    """A link that is made of a document's own ids; `path` follows the group's address. Left out where `needs` is absent."""

    name: str
    path: Callable[[Document], str]
    needs: str = "groupId"


GROUP = Relation("group", lambda _: "")
CLUSTER = Relation("cluster", lambda d: f"/clusters/{d['clusterId']}")
SNAPSHOT = Relation(
    "snapshot", lambda d: f"/clusters/{d['clusterId']}/snapshots/{d['snapshotId']}", needs="snapshotId"
)
SCHEDULE = Relation("snapshotSchedule", lambda d: f"/backupConfigs/{d['clusterId']}/snapshotSchedule")


def entity_answer(call: Call, document: Document, *, relations: Sequence[Relation]) -> Answer:
    """The answer with one document, which has `groupId`."""
    if call.family is not Family.CLOUD:
        return Answer(document=document)
    group = call.addresses.group(document["groupId"])
    extensions: list[Any] = [
        {"rel": f"{_NAMESPACE}/{relation.name}", "href": group + relation.path(document)}
        for relation in relations
        if relation.needs in document
    ]
    return Answer(document={**document, "links": [*document["links"], *extensions]})
