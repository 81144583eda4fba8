"""What is read from a mongod's log."""

from ebbtide.domain.optime import OplogTimestamp
from ebbtide.mongod.log_lines import find_applied_count, find_applying_count, find_recovery_timestamp


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


def counted(message: str, count: int) -> str:
    return f'{{"msg":"{message}","attr":{{"numOpsApplied":{count}}}}}'


def test_a_recovery_says_what_it_applied_and_how_far_it_is() -> None:
    batches = [counted("Applying operations in batch", 0), counted("Applying operations in batch", 5000)]
    done = counted("Completed oplog application for recovery", 7000)
    assert find_applied_count([*batches, done]) == 7000
    assert find_applied_count(batches) is None
    assert find_applying_count(batches) == 5000
    assert find_applying_count([]) == 0


def test_a_line_that_is_still_being_written_is_passed_over() -> None:
    whole = counted("Applying operations in batch", 5000)
    assert find_applying_count([whole, counted("Applying operations in batch", 9000)[:-3]]) == 5000
