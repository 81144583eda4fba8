"""Parts of one sharded cluster as restoreInfo.txt tells of them, and as their opened files do."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId

from ebbtide.domain.optime import OplogTimestamp, OpTime
from ebbtide.restore.archive_directory import FREE_BYTES_MIN, ArchiveInfo, DirectorySight, FilesState
from ebbtide.restore.sharded_prepare.survey import PartSurvey

LIMIT = OplogTimestamp(1_700_000_010, 0)
AT = OplogTimestamp(1_700_000_009, 4)
CLUSTER_ID = ObjectId("5f00000000000000000000aa")


@pytest.fixture
def sight() -> Callable[..., DirectorySight]:
    """Makes what is seen of the directory of a part; keyword arguments replace fields of its restoreInfo.txt."""

    def make(part: str, **changes: Any) -> DirectorySight:
        info = ArchiveInfo(
            restore_job_id="e" * 24,
            cluster=f"bank-{part}",
            replica_set_name=f"rs-{part}",
            mongod_version="6.0.5",
            stable=AT,
            newest=AT,
            directory_per_db=False,
            limit=LIMIT,
            sharded_cluster="c" * 24,
            part=part,
        )
        return DirectorySight(
            directory=Path("/restore") / (part or "whole"),
            info=replace(info, **changes),
            files=FilesState.UNTOUCHED,
            is_in_use=False,
            is_ours=True,
            free_bytes=FREE_BYTES_MIN,
            our_version="6.0.5",
        )

    return make


@pytest.fixture
def survey() -> Callable[..., PartSurvey]:
    """Makes what the opened files of a part say, as they were extracted; keyword arguments replace fields."""

    def make(part: str, **changes: Any) -> PartSurvey:
        is_config = part == "config"
        found = PartSurvey(
            configuration={"_id": f"rs-{part}", "version": 7, "members": [{"host": f"old-{part}:1"}]},
            newest=OpTime(AT, 3),
            recovery=None,
            cluster_id=CLUSTER_ID,
            shard_name=None if is_config else part,
            config_address=None if is_config else "rs-config/old-config:1",
            shards={"s0": "rs-s0/old-s0:1", "s1": "rs-s1/old-s1:1"} if is_config else {},
        )
        return replace(found, **changes)

    return make
