"""Which moments can be restored, from the command line."""

import json
from typing import Any

GROUP = "a" * 24
SNAPSHOT = "c" * 24
PATH = f"/api/ebbtide/v1/groups/{GROUP}/clusters/shop/oplogRanges"


def moment(seconds: int, increment: int) -> dict[str, Any]:
    return {"date": f"2026-05-01T10:00:{seconds:02d}Z", "increment": increment} | {
        "oplogTs": seconds,
        "oplogInc": increment,
    }


RANGES = {
    "clusterName": "shop",
    "archive": {"archivedTo": moment(40, 2), "lagSeconds": 3.0, "source": "m:1", "message": "", "gaps": 1},
    "archived": [{"first": moment(1, 1), "last": moment(40, 2)}],
    "restorable": [{"first": moment(10, 1), "last": moment(40, 2), "snapshotId": SNAPSHOT}],
    "gaps": [
        {
            "after": moment(5, 1),
            "before": moment(8, 1),
            "found": "2026-05-01T11:00:00Z",
            "reason": "no oplog reached back",
        }
    ],
}


def test_ranges_are_told_to_the_second_and_increment(connected: Any, ebbtide: Any) -> None:
    connected.answer("GET", PATH, RANGES)
    done = ebbtide("oplog", "ranges", "shop")
    assert done.code == 0
    assert "(10, 1)" in done.stdout
    assert "(40, 2)" in done.stdout
    assert SNAPSHOT in done.stdout
    assert "no oplog reached back" in done.stdout
    assert "behind its set" in done.stdout


def test_ranges_as_json_are_the_answer(connected: Any, ebbtide: Any) -> None:
    connected.answer("GET", PATH, RANGES)
    done = ebbtide("oplog", "ranges", "shop", "-o", "json")
    assert json.loads(done.stdout) == RANGES


def test_where_nothing_can_be_restored_the_way_there_is_told(connected: Any, ebbtide: Any) -> None:
    connected.answer("GET", PATH, {"archive": None, "archived": [], "restorable": [], "gaps": []})
    done = ebbtide("oplog", "ranges", "shop")
    assert done.code == 0
    assert "begins with a complete snapshot" in done.stdout + done.stderr


def test_a_cluster_shows_how_far_its_archive_is(connected: Any, ebbtide: Any) -> None:
    cluster = {"name": "shop", "id": "b" * 24, "state": "ACTIVE", "archive": RANGES["archive"]}
    connected.answer("GET", f"/api/ebbtide/v1/groups/{GROUP}/clusters/shop", cluster)
    done = ebbtide("clusters", "show", "shop")
    assert "oplog archive" in done.stdout
    assert "2026-05-01T10:00:40Z, 2" in done.stdout
    assert "archive gaps" in done.stdout
