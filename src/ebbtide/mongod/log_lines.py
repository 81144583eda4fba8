"""What a mongod says of itself in its log: structured lines, one JSON document each (4.4 and later)."""

import json
from collections.abc import Sequence

from ebbtide.domain.optime import OplogTimestamp


def find_recovery_timestamp(log_lines: Sequence[str]) -> OplogTimestamp | None:
    """Where a mongod opened its files, by its own log; None if it says none, or zero (files without history)."""
    found = None
    for line in log_lines:
        if '"WiredTiger recoveryTimestamp"' in line:
            value = json.loads(line)["attr"]["recoveryTimestamp"]["$timestamp"]
            found = OplogTimestamp(seconds=int(value["t"]), increment=int(value["i"]))
    return None if found == OplogTimestamp(seconds=0, increment=0) else found


def find_applied_count(log_lines: Sequence[str]) -> int | None:
    """How many oplog entries a mongod applied when it recovered, by its own log; None if it says none."""
    found = None
    for line in log_lines:
        if '"Completed oplog application for recovery"' in line:
            found = int(json.loads(line)["attr"]["numOpsApplied"])
    return found


def find_applying_count(log_lines: Sequence[str]) -> int:
    """How many oplog entries a recovering mongod has applied so far; 0 if it says none. A cut line is passed over."""
    for line in reversed(log_lines):
        if '"Applying operations in batch"' in line and line.endswith("}"):
            return int(json.loads(line)["attr"]["numOpsApplied"])
    return 0
