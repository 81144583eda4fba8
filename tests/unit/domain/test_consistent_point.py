"""Where a sharded cluster can be cut: every rule as a row, and random histories against what truly happened."""

import itertools
from dataclasses import dataclass, field
from random import Random

import bson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.domain.consistent_point import (
    ClusterOperation,
    ConsistentPoint,
    NoConsistentPoint,
    OpenWork,
    PartHistory,
    Participants,
    PartTransaction,
    TransactionId,
    latest_consistent_point,
)
from ebbtide.domain.optime import OplogTimestamp

END = 100
X = TransactionId("id=aa", 1)


def ts(tick: int) -> OplogTimestamp:
    return OplogTimestamp(0, tick)


def maybe(tick: int | None) -> OplogTimestamp | None:
    return None if tick is None else ts(tick)


def prepared(at: int | None, *, committed: int | None = None) -> PartTransaction:
    return PartTransaction(id=X, prepared=maybe(at), committed=maybe(committed))


def recorded(at: int | None, *shards: str, removed: int | None = None) -> Participants:
    return Participants(id=X, shards=shards, recorded=maybe(at), removed=maybe(removed))


def operation(began: int | None, ended: int | None) -> ClusterOperation:
    return ClusterOperation(name="dropCollection of shop.orders", began=maybe(began), ended=maybe(ended))


def part(
    name: str,
    *known: PartTransaction | Participants | ClusterOperation,
    after: int = 0,
    through: int = END,
) -> PartHistory:
    return PartHistory(
        part=name,
        after=ts(after),
        through=ts(through),
        transactions=tuple(found for found in known if isinstance(found, PartTransaction)),
        participants=tuple(found for found in known if isinstance(found, Participants)),
        operations=tuple(found for found in known if isinstance(found, ClusterOperation)),
    )


def chosen(*parts: PartHistory, at_most: int = END) -> int | None:
    found = latest_consistent_point(parts, at_most=ts(at_most))
    return found.timestamp.increment if isinstance(found, ConsistentPoint) else None


TWO_COMMITS = (part("a", prepared(10, committed=20)), part("b", prepared(11, committed=30)))

RULES: dict[str, tuple[int | None, tuple[PartHistory, ...], int]] = {
    "nothing happened": (END, (part("a"), part("b")), END),
    "nothing beyond what is asked for": (50, (part("a"), part("b")), 50),
    "nothing beyond the archive that is behind": (40, (part("a", through=40), part("b")), END),
    "both commits are within": (30, TWO_COMMITS, 30),
    "one commit is within": (19, TWO_COMMITS, 29),
    "exactly at the first commit": (19, TWO_COMMITS, 20),
    "prepared on both and undecided": (19, TWO_COMMITS, 19),
    "undecided until the end": (END, (part("a", prepared(10)), part("b", prepared(11))), END),
    "one commit is missing from the archive": (
        19, (part("a", prepared(10, committed=20)), part("b", prepared(11))), END,
    ),
    "the archive ends before the other commit": (
        19, (part("a", prepared(10, committed=20)), part("b", prepared(11), through=25)), END,
    ),
    "aborted on one, which then says nothing, and never committed": (
        END, (part("a", prepared(10)), part("b")), END,
    ),
    "a shard that takes part should have prepared, and shows nothing": (
        19, (part("a", recorded(5, "a", "b"), prepared(10, committed=20)), part("b")), END,
    ),
    "the coordinator is done: all know the decision": (
        END, (part("a", recorded(5, "a", "b", removed=40), prepared(10, committed=20)), part("b")), END,
    ),
    "before the coordinator is done a silent shard counts as not committed": (
        19, (part("a", recorded(5, "a", "b", removed=40), prepared(10, committed=20)), part("b")), 39,
    ),
    "a shard that takes part is none of ours": (
        19, (part("a", recorded(5, "a", "gone"), prepared(10, committed=20)), part("b")), END,
    ),
    "a commit whose prepare was trimmed, the other one trimmed with it": (
        END, (part("a", prepared(None, committed=30)), part("b", after=20)), END,
    ),
    "the other commit may be before its archive begins": (
        None, (part("a", prepared(10, committed=30)), part("b", after=20)), 29,
    ),
    "prepared after the other archive began: its commit would have been seen": (
        29, (part("a", prepared(21, committed=30)), part("b", after=20)), 29,
    ),
    "the coordinator says that the other one takes no part": (
        29,
        (part("a", recorded(5, "a", "c"), prepared(10, committed=40)), part("b", after=20),
         part("c", prepared(11, committed=30))),
        35,
    ),
    "an open prepare was carried over the trim": (
        29, (part("a", prepared(10, committed=30)), part("b", prepared(None), after=20)), END,
    ),
    "inside an operation": (9, (part("a", operation(10, 20)), part("b")), 15),
    "as an operation begins": (9, (part("a", operation(10, 20)), part("b")), 10),
    "as an operation ends": (20, (part("a", operation(10, 20)), part("b")), 20),
    "an operation without end is open": (9, (part("a", operation(10, None)), part("b")), END),
    "an operation that was open before everything": (None, (part("a", operation(None, 20)), part("b")), 19),
    "an operation overlaps a straddle": (
        14, (part("a", operation(15, 25), prepared(10, committed=20)), part("b", prepared(11, committed=30))), 29,
    ),
    "the archives have nothing in common": (None, (part("a", through=10), part("b", after=20)), END),
    "asked for a moment before the archives": (None, (part("a", after=20), part("b")), 10),
}  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
def test_the_latest_moment_that_nothing_straddles(rule: str) -> None:
    expected, parts, at_most = RULES[rule]
    assert expected == chosen(*parts, at_most=at_most)
    assert expected == chosen(*reversed(parts), at_most=at_most)


def test_who_finds_no_moment_says_why() -> None:
    found = latest_consistent_point([part("a", operation(None, None)), part("b")], at_most=ts(50))
    assert isinstance(found, NoConsistentPoint)
    assert "dropCollection of shop.orders" in found.reason


@pytest.mark.parametrize("parts", [[], [part("a"), part("a")]])
def test_parts_have_names_of_their_own(parts: list[PartHistory]) -> None:
    with pytest.raises(ValueError, match="each with its own name"):
        latest_consistent_point(parts, at_most=ts(1))


def test_open_work_is_read_back_as_it_was_stored() -> None:
    work = OpenWork(
        transactions=(prepared(3), prepared(None)),
        participants=(recorded(2, "a", "b"),),
        operations=(operation(1, None),),
    )
    assert work == OpenWork.from_document(bson.decode(bson.encode(work.to_document())))


@pytest.mark.parametrize(
    "document",
    [{}, {"transactions": [{}]}, {"transactions": [], "participants": [], "operations": [{"name": 1}]},
     {"transactions": [], "participants": [], "operations": [{"name": "x", "began": 1}]}],
)  # fmt: skip
def test_what_is_no_open_work_is_refused(document: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="no record of open work"):
        OpenWork.from_document(document)


# --- against what truly happened --------------------------------------------------------------------------------------

Step = tuple[str, str]
"""What happens, and on which part."""


@dataclass
class Story:
    """A transaction or an operation: which of its steps happened when."""

    id: TransactionId
    parts: tuple[str, ...]
    waves: list[list[Step]]
    at: dict[Step, int] = field(default_factory=dict)

    def is_split(self, tick: int) -> bool:
        """Whether a cluster that is cut there has a part of it only."""
        if self.waves[0][0][0] == "began":
            home = self.parts[0]
            return self.at.get(("began", home), END) <= tick < self.at.get(("ended", home), END)
        commits = [self.at.get(("committed", name), END) <= tick for name in self.parts]
        return any(commits) and not all(commits)


def new_story(random: Random, number: int, names: list[str]) -> Story:
    id_ = TransactionId("id=aa", number)
    parts = tuple(random.sample(names, random.randint(1, len(names))))
    if random.random() < 0.2:
        return Story(id_, parts[:1], [[("began", parts[0])], [("ended", parts[0])]])
    decision = "aborted" if random.random() < 0.2 else "committed"
    waves = [[(kind, name) for name in parts] for kind in ("prepared", decision)]
    for wave in waves:
        random.shuffle(wave)
    return Story(id_, parts, [[("recorded", parts[0])], *waves, [("removed", parts[0])]])


def play(random: Random, stories: list[Story]) -> int:
    """Give the stories' steps ticks, each story in order; some stay unfinished. The last tick."""
    waiting = [
        (story, iter(list(itertools.chain(*story.waves))[: random.choice([99, 99, random.randint(1, 6)])]))
        for story in stories
    ]
    tick = 1
    while waiting:
        story, steps = random.choice(waiting)
        step = next(steps, None)
        if step is None:
            waiting.remove((story, steps))
        else:
            story.at[step] = tick
            tick += 1
    return tick


def tell(random: Random, name: str, stories: list[Story], *, after: int, through: int) -> PartHistory:
    """What the archive of a part says of them; of prepares before its beginning it may have forgotten when they were."""

    def seen(story: Story, kind: str) -> OplogTimestamp | None:
        tick = story.at.get((kind, name))
        return ts(tick) if tick is not None and tick <= through else None

    def opening(at: OplogTimestamp | None) -> OplogTimestamp | None:
        return None if at is not None and at <= ts(after) and random.random() < 0.3 else at

    known: list[PartTransaction | Participants | ClusterOperation] = []
    for story in stories:
        began, ended = seen(story, "began"), seen(story, "ended")
        if began is not None and (ended is None or ended > ts(after)):
            known.append(ClusterOperation(name=str(story.id), began=opening(began), ended=ended))
        prepare, commit = seen(story, "prepared"), seen(story, "committed")
        if prepare and not seen(story, "aborted") and (commit is None or commit > ts(after)):
            known.append(PartTransaction(id=story.id, prepared=opening(prepare), committed=commit))
        record, removal = seen(story, "recorded"), seen(story, "removed")
        if record and (removal is None or removal > ts(after)):
            known.append(
                Participants(id=story.id, shards=story.parts, recorded=opening(record), removed=removal)
            )
    return part(name, *known, after=after, through=through)


@given(st.randoms(use_true_random=False), st.integers(2, 4), st.integers(1, 7), st.booleans())
def test_no_chosen_moment_splits_anything_and_no_later_one_would_do(
    random: Random, part_count: int, story_count: int, begins_late: bool
) -> None:
    names = ["a", "b", "c", "d"][:part_count]
    stories = [new_story(random, number, names) for number in range(story_count)]
    last = play(random, stories)
    begins = {name: random.randint(0, last // 2) if begins_late else 0 for name in names}
    ends = {name: random.randint(last // 2, last) for name in names}
    parts = [tell(random, name, stories, after=begins[name], through=ends[name]) for name in names]

    at_most = random.randint(0, last)
    found = chosen(*parts, at_most=at_most)

    whole = [
        tick
        for tick in range(max(begins.values()), min(at_most, *ends.values()) + 1)
        if not any(story.is_split(tick) for story in stories)
    ]
    if begins_late:
        # What happened before an archive began may be unknown, and counts against a moment then.
        assert found is None or found in whole
    else:
        assert max(whole, default=None) == found
