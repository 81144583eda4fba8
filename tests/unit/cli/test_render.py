"""Sizes, times, progress and text from elsewhere, as people see them."""

import io

import pytest

from ebbtide.cli.render.output import Output, OutputFormat, plain
from ebbtide.cli.render.progress import ProgressView, RateWindow, figures_text
from ebbtide.cli.render.quantities import human_bytes, human_seconds, human_share


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (9_994, "9.99 kB"),
        (9_996, "10.0 kB"),
        (99_960, "100 kB"),
        (999_600, "1.00 MB"),
        (1_234_567_890, "1.23 GB"),
        (5 * 10**18, "5000 PB"),
    ],
)
def test_sizes_have_three_digits(count: int, text: str) -> None:
    assert human_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.7, "1 min"),
        (200, "3 min 20 s"),
        (3599.9, "1 h"),
        (7500, "2 h 5 min"),
        (100 * 3600, "4 d 4 h"),
    ],
)
def test_times_have_two_units(seconds: float, text: str) -> None:
    assert human_seconds(seconds) == text


def test_shares() -> None:
    assert [human_share(1, 300), human_share(1, 2), human_share(1, 0)] == ["0.3 %", "50 %", ""]


def test_control_characters_from_elsewhere_are_shown_not_obeyed() -> None:
    assert plain("a\x1b[2J\rb\x00\u202e") == "a\\x1b[2J\\rb\\x00\\u202e"


def test_the_rate_is_that_of_the_last_seconds() -> None:
    now = [0.0]
    window = RateWindow(lambda: now[0])
    for second in range(60):
        now[0] = float(second)
        window.add(second * (10 if second < 30 else 100))
    rate = window.per_second()
    assert rate is not None
    assert rate == pytest.approx(100)


def test_a_value_that_goes_back_starts_the_rate_anew() -> None:
    now = [0.0]
    window = RateWindow(lambda: now[0])
    window.add(100)
    now[0] = 1.0
    window.add(10)
    assert window.per_second() is None


def test_what_is_not_known_is_left_out() -> None:
    assert figures_text(5, None, "files", None, None) == "5 files"
    assert figures_text(5_000, 10_000, "bytes", 100, 50) == "5.00 kB of 10.0 kB (50 %), 100 B/s, 50 s left"


def test_in_a_log_progress_is_a_line_per_phase_and_now_and_then() -> None:
    now, err = [0.0], io.StringIO()
    output = Output(OutputFormat.TEXT, stdout=io.StringIO(), stderr=err)
    with ProgressView(output, monotonic=lambda: now[0]) as view:
        for second in range(25):
            now[0] = float(second)
            view.show("storing", done=second, total=100, unit="files")
        view.show("finishing")
    assert [line.split(":")[0] for line in err.getvalue().splitlines()] == ["storing"] * 3 + ["finishing"]


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("columns", [20, 40, 60, 200])
def test_no_width_of_terminal_breaks_an_id(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "dumb")
    terminal, identity = _Terminal(), "b" * 24
    output = Output(OutputFormat.TEXT, stdout=terminal, stderr=io.StringIO())
    output.table(["ID", "SAYS", "AGAIN"], [[identity, "some words to wrap", identity]], empty="")
    assert terminal.getvalue().count(identity) == 2
