"""Rows of the bench: which way a ratio points, when a goal is reached, and what is printed and written."""

import pytest
from bench.rows import Row, as_json, faster, render_table, within


def test_a_row_of_speed_is_how_often_the_plain_time_holds_ours() -> None:
    row = faster("copy", "how", ours=[2.0, 4.0, 1.0], plain=[1.0, 1.0, 1.0], goal=0.5)
    assert row.ratios == (0.5, 0.25, 1.0)
    assert row.ratio == 0.5
    assert row.is_reached is True


@pytest.mark.parametrize(
    ("ratio", "goal", "at_least", "is_granted", "expected"),
    [
        (0.7, 0.7, True, False, True),
        (0.69, 0.7, True, False, False),
        (1.1, 1.1, False, False, True),
        (1.2, 1.1, False, False, False),
        (1.2, 1.1, False, True, True),
        (1.2, None, False, False, None),
    ],
)
def test_a_goal_is_reached_at_its_very_value(
    ratio: float, goal: float | None, at_least: bool, is_granted: bool, expected: bool | None
) -> None:
    row = Row(name="r", how="h", ratios=(ratio,), goal=goal, at_least=at_least, is_granted=is_granted)
    assert row.is_reached is expected


def test_a_row_without_a_round_is_refused() -> None:
    with pytest.raises(ValueError, match="not measured"):
        faster("copy", "how", ours=[], plain=[], goal=None)


def test_rounds_are_compared_pair_by_pair() -> None:
    with pytest.raises(ValueError):
        within("copy", "how", ours=[1.0, 2.0], base=[1.0], goal=None)


def test_the_table_and_the_file_tell_the_same() -> None:
    rows = [
        faster("first snapshot", "against isal", ours=[1.0], plain=[0.5], goal=0.7),
        within("pause", "against reading", ours=[3.0], base=[1.0], goal=None),
    ]
    first, second = render_table(rows).splitlines()[1:]
    assert "first snapshot" in first
    assert first.endswith("no")
    assert "≥ 0.7" in first
    assert "–" in second
    written = as_json(rows, {"processors": 4})
    assert written["circumstances"] == {"processors": 4}
    assert written["rows"]["first snapshot"] == {
        "ratio": 0.5,
        "ratios": [0.5],
        "goal": 0.7,
        "direction": "at least",
        "reached": False,
        "how": "against isal",
    }
    assert written["rows"]["pause"]["reached"] is None
