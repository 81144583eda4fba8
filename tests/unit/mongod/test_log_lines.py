"""What is read from a mongod's log."""

from ebbtide.domain.optime import OplogTimestamp
from ebbtide.mongod.log_lines import find_recovery_timestamp


def opened_at(seconds: int, increment: int) -> str:
    return (
        '{"msg":"WiredTiger recoveryTimestamp",'
        f'"attr":{{"recoveryTimestamp":{{"$timestamp":{{"t":{seconds},"i":{increment}}}}}}}}}'
    )


def test_the_last_recovery_timestamp_of_a_log_is_where_the_files_were_opened() -> None:
    log = [opened_at(5, 6), '{"msg":"something else"}', opened_at(1700000000, 3), "not json"]
    assert OplogTimestamp(1700000000, 3) == find_recovery_timestamp(log)


def test_files_without_history_open_nowhere() -> None:
    assert find_recovery_timestamp([opened_at(0, 0)]) is None
    assert find_recovery_timestamp(["nothing here"]) is None
    assert find_recovery_timestamp([]) is None
