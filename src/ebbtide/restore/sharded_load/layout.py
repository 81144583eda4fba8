"""Reading how a sharded cluster keeps its data, from its config server or from a scratch mongod with that part's files."""

from typing import Any

from bson.raw_bson import RawBSONDocument
from pymongo.collection import Collection

from ebbtide.domain.cluster_layout import ClusterLayout, parse_layout
from ebbtide.mongod.deployment import translated_errors
from ebbtide.restore.load.inventory import RAW, Client


def read_layout(config: Client) -> ClusterLayout:
    """Bounds stay raw BSON, as the server has them. Raises Refused where it is no whole, Unreachable, DeploymentError."""
    with translated_errors("reading the config server's metadata"):
        return parse_layout(
            shards=_all(config, "shards"),
            databases=_all(config, "databases"),
            collections=_all(config, "collections"),
            chunks=_all(config, "chunks", sort={"uuid": 1, "min": 1}),
            tags=_all(config, "tags", sort={"ns": 1, "min": 1}),
        )


def _all(config: Client, name: str, *, sort: dict[str, int] | None = None) -> list[RawBSONDocument]:
    collection: Collection[Any] = config.config.get_collection(name, codec_options=RAW)
    found = collection.find()
    return list(found if sort is None else found.sort(sort))
