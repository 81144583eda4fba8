"""The prune mark: what nothing refers to any more, and since when that is known.

`<cluster id>/<replica set>/prune/mark`, JSON (docs/formats/prune.md). It is the first of prune's two phases; only what
stands in it for the whole grace period can go in the second.

The only object that is overwritten. It is a memory, never the truth: a sweep looks again at every reference, so a mark
that is lost, old or damaged can delay a deletion and can never cause one.
"""

import json
from collections.abc import Mapping
from datetime import datetime

from blake3 import blake3

from ebbtide.domain.ids import ClusterId
from ebbtide.errors import IntegrityError
from ebbtide.repository.untrusted import format_moment, parse_json

MARK_BYTES_MAX = 128 * 1024 * 1024
MARKED_MAX = 500_000
"""Objects in one mark; what is beyond is marked once these are swept."""

_FORMAT = "ebbtide-prune-mark"
_VERSION = 1


def encode_mark(marked: Mapping[str, datetime], *, cluster_id: ClusterId, replica_set_name: str) -> bytes:
    """The stored bytes. `marked`: names below the replica set's prefix, and since when nothing refers to each."""
    by_moment: dict[str, list[str]] = {}
    for name in sorted(marked):
        by_moment.setdefault(format_moment(marked[name]), []).append(name)
    return _render(
        {
            "format": _FORMAT,
            "version": _VERSION,
            "about": "Objects that no snapshot refers to, by when that was first seen. Written and read by prune.",
            "clusterId": cluster_id,
            "replicaSetName": replica_set_name,
            "unreferenced": [
                {"since": moment, "objects": names} for moment, names in sorted(by_moment.items())
            ],
        }
    )


def decode_mark(data: bytes, *, object_name: str) -> dict[str, datetime]:
    """What `encode_mark` was given. Raises IntegrityError."""
    fields = parse_json(data, object_name=object_name)
    values = {name: value for name, value in json.loads(data).items() if name != "checksum"}
    if _render(values) != data:
        raise IntegrityError(object_name, "does not match its checksum", hint="prune begins a new one")
    if (fields.text("format"), fields.integer("version")) != (_FORMAT, _VERSION):
        raise IntegrityError(object_name, "is not a prune mark that this version reads")
    marked: dict[str, datetime] = {}
    for group in fields.iter_objects("unreferenced"):
        since = group.moment("since")
        for name in group.items("objects"):
            if not isinstance(name, str):
                raise group.problem("objects", "a list of names")
            marked[name] = since
    return marked


def _render(values: Mapping[str, object]) -> bytes:
    # The same form as repository.json: rendering again and comparing bytes leaves no bit out of the checksum.
    body = json.dumps(values, indent=1)
    return (json.dumps({**values, "checksum": blake3(body.encode()).hexdigest()}, indent=1) + "\n").encode()
