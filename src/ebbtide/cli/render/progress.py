"""Progress for those who wait, always on standard error.

On a terminal: one bar that is drawn over. Elsewhere: a line at each new phase and every ten seconds, so that a log of
an hour's wait stays short. Rate and time left are the server's where it gives them, else from a sliding window here.
"""

import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, Progress, TaskID, TextColumn

from ebbtide.cli.render.output import Output, plain
from ebbtide.cli.render.quantities import human_amount, human_seconds, human_share

LINE_EVERY_SECONDS = 10.0
WINDOW_SECONDS = 15.0
"""Long enough to even out bursts, short enough to follow a change."""


class RateWindow:
    """Units per second over the last `WINDOW_SECONDS`. A value that goes back starts it anew."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._marks: deque[tuple[float, int]] = deque()

    def add(self, done: int) -> None:
        now = self._monotonic()
        if self._marks and done < self._marks[-1][1]:
            self._marks.clear()
        # Ten marks a second are plenty, and bound the memory.
        if not self._marks or now - self._marks[-1][0] >= 0.1:
            self._marks.append((now, done))
        while len(self._marks) > 2 and now - self._marks[0][0] > WINDOW_SECONDS:
            self._marks.popleft()

    def per_second(self) -> float | None:
        """None until there is something to tell."""
        if len(self._marks) < 2:
            return None
        (first_at, first), (last_at, last) = self._marks[0], self._marks[-1]
        return (last - first) / (last_at - first_at) if last_at > first_at else None


class ProgressView:
    """Shows one wait. Use it in a `with`; call `show` as often as you like."""

    def __init__(self, output: Output, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._output = output
        self._monotonic = monotonic
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._window = RateWindow(monotonic)
        self._phase = ""
        self._line_at = 0.0

    def __enter__(self) -> Self:
        if self._output.remarks.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=30),
                TextColumn("{task.fields[figures]}", markup=False),
                console=self._output.remarks,
                transient=True,
            )
            self._task = self._bar.add_task("", total=None, figures="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(
        self,
        phase: str,
        *,
        done: int | None = None,
        total: int | None = None,
        unit: str = "bytes",
        rate: float | None = None,
        seconds_left: float | None = None,
    ) -> None:
        """How far it is. Without `done`, only the name of the phase."""
        changed = phase != self._phase
        if changed:
            self._phase, self._window = phase, RateWindow(self._monotonic)
        if done is not None:
            self._window.add(done)
            rate = self._window.per_second() if rate is None else rate
            if seconds_left is None and total is not None and rate:
                seconds_left = max(0.0, (total - done) / rate)
        figures = "" if done is None else figures_text(done, total, unit, rate, seconds_left)
        if self._bar is not None and self._task is not None:
            self._bar.update(
                self._task, description=plain(phase), completed=done or 0, total=total, figures=figures
            )
        else:
            self._line(phase, figures, changed=changed)

    def _line(self, phase: str, figures: str, *, changed: bool) -> None:
        now = self._monotonic()
        if changed or now - self._line_at >= LINE_EVERY_SECONDS:
            self._line_at = now
            self._output.remark(f"{phase}: {figures}" if figures else phase)


def figures_text(
    done: int, total: int | None, unit: str, rate: float | None, seconds_left: float | None
) -> str:
    """`1.20 GB of 4.00 GB (30 %), 210 MB/s, 13 s left`, with what is known of it."""
    text = human_amount(done, unit)
    if total is not None:
        share = human_share(done, total)
        text += f" of {human_amount(total, unit)}" + (f" ({share})" if share else "")
    if rate:
        text += f", {human_amount(rate, unit)}/s"
    if seconds_left is not None:
        text += f", {human_seconds(seconds_left)} left"
    return text
