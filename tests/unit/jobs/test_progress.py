"""Progress is reported seldom enough not to matter, never exceeds its total, and has the last word."""

import threading
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.domain.progress import Progress
from ebbtide.jobs.progress import INTERVAL_SECONDS, ThrottledProgress


class HandClock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def written() -> list[Progress]:
    return []


@pytest.fixture
def progress(written: list[Progress], clock: HandClock) -> ThrottledProgress:
    return ThrottledProgress(written.append, clock)


def test_a_phase_begins_with_a_word_at_zero(
    progress: ThrottledProgress, written: list[Progress], clock: HandClock
) -> None:
    progress.phase("store", total=100, unit="blocks")
    now = clock.now()
    assert [Progress(phase="store", done=0, total=100, unit="blocks", started=now, updated=now)] == written


def test_calls_within_the_interval_are_not_written(
    progress: ThrottledProgress, written: list[Progress], clock: HandClock
) -> None:
    progress.phase("store", total=1000)
    for _ in range(50):
        progress.advance(1)
    assert [p.done for p in written] == [0]
    clock.sleep(INTERVAL_SECONDS)
    progress.advance(1)
    progress.advance(1)
    assert [p.done for p in written] == [0, 51]
    assert written[-1].updated - written[-1].started == timedelta(seconds=INTERVAL_SECONDS)


def test_the_last_word_of_a_phase_is_written_before_the_next(
    progress: ThrottledProgress, written: list[Progress]
) -> None:
    progress.phase("store", total=10)
    progress.advance(7)
    progress.phase("hash", total=20)
    progress.advance(5)
    progress.flush()
    assert [(p.phase, p.done) for p in written] == [("store", 0), ("store", 7), ("hash", 0), ("hash", 5)]


def test_without_a_phase_nothing_is_said(progress: ThrottledProgress, written: list[Progress]) -> None:
    progress.advance(5)
    progress.flush()
    assert written == []


@given(total=st.none() | st.integers(0, 100), amounts=st.lists(st.integers(0, 60), max_size=20))
def test_progress_never_exceeds_its_total_and_never_goes_back(total: int | None, amounts: list[int]) -> None:
    clock, written = HandClock(), list[Progress]()
    progress = ThrottledProgress(written.append, clock)
    progress.phase("store", total=total)
    for amount in amounts:
        clock.sleep(INTERVAL_SECONDS / 2)
        progress.advance(amount)
    progress.flush()
    done = [p.done for p in written]
    assert sorted(done) == done
    expected = sum(amounts) if total is None else min(total, sum(amounts))
    assert expected == done[-1]


def test_many_threads_lose_nothing(written: list[Progress], clock: HandClock) -> None:
    progress = ThrottledProgress(written.append, clock)
    progress.phase("store", total=8000)

    def advance() -> None:
        for _ in range(1000):
            progress.advance(1)

    threads = [threading.Thread(target=advance) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    progress.flush()
    assert written[-1].done == 8000


def test_a_slow_write_does_not_overtake_the_last_word(clock: HandClock) -> None:
    written: list[int] = []
    is_writing, may_write = threading.Event(), threading.Event()

    def write(progress: Progress) -> None:
        if progress.done == 1:
            is_writing.set()
            may_write.wait(60)
        written.append(progress.done)

    progress = ThrottledProgress(write, clock)
    progress.phase("store", total=10)
    clock.sleep(INTERVAL_SECONDS)
    slow = threading.Thread(target=progress.advance, args=(1,))
    slow.start()
    assert is_writing.wait(60)
    progress.advance(9)
    last = threading.Thread(target=progress.flush)
    last.start()
    may_write.set()
    slow.join()
    last.join()
    assert written == [0, 1, 10]
