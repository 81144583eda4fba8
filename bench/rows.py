"""A row of the bench: one ratio, its goal, and how it was measured. Pure: no clock, no files.

A ratio is the median of several rounds. In each round Ebbtide and the plain tool take turns, so that a machine that
slows down slows both; the smallest and the largest ratio say how noisy it was.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Row:
    """`ratios` has one entry per round. With `goal` None the row is there to be read, not to be reached.

    `is_granted`: the goal's own exception holds (an absolute time so small that a ratio says nothing).
    """

    name: str
    how: str
    ratios: tuple[float, ...]
    goal: float | None
    at_least: bool
    is_granted: bool = False

    def __post_init__(self) -> None:
        if not self.ratios:
            raise ValueError(f"{self.name} was not measured")

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    @property
    def is_reached(self) -> bool | None:
        """None where there is no goal."""
        if self.goal is None:
            return None
        within = self.ratio >= self.goal if self.at_least else self.ratio <= self.goal
        return within or self.is_granted

    def as_json(self) -> dict[str, Any]:
        return {
            "ratio": round(self.ratio, 4),
            "ratios": [round(ratio, 4) for ratio in self.ratios],
            "goal": self.goal,
            "direction": "at least" if self.at_least else "at most",
            "reached": self.is_reached,
            "how": self.how,
        }


def faster(name: str, how: str, *, ours: Sequence[float], plain: Sequence[float], goal: float | None) -> Row:
    """Speed of ours in speeds of the plain tool, from seconds for the same work, round by round; at least `goal`."""
    pairs = zip(plain, ours, strict=True)
    return Row(name=name, how=how, ratios=tuple(p / o for p, o in pairs), goal=goal, at_least=True)


def within(
    name: str,
    how: str,
    *,
    ours: Sequence[float],
    base: Sequence[float],
    goal: float | None,
    is_granted: bool = False,
) -> Row:
    """Ours as a multiple of `base`, round by round; at most `goal`."""
    ratios = tuple(o / b for o, b in zip(ours, base, strict=True))
    return Row(name=name, how=how, ratios=ratios, goal=goal, at_least=False, is_granted=is_granted)


def render_table(rows: Sequence[Row]) -> str:
    """The rows as text, one line each, with the spread of the rounds."""
    width = max(len(row.name) for row in rows)
    lines = [f"{'row':<{width}}   ratio   (min … max)      goal   reached"]
    for row in rows:
        sign = "≥" if row.at_least else "≤"
        goal = "–" if row.goal is None else f"{sign} {row.goal:g}"
        reached = {True: "yes", False: "no", None: ""}[row.is_reached]
        spread = f"({min(row.ratios):.3g} … {max(row.ratios):.3g})"
        lines.append(f"{row.name:<{width}}  {row.ratio:>6.3g}   {spread:<15}  {goal:>6}   {reached}")
    return "\n".join(lines)


def as_json(rows: Sequence[Row], circumstances: Mapping[str, Any]) -> dict[str, Any]:
    """What `bench.json` holds: the circumstances, and each row by its name."""
    return {"circumstances": dict(circumstances), "rows": {row.name: row.as_json() for row in rows}}
