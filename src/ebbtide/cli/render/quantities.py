"""Sizes, times and rates for people. JSON output never goes through here: it is exact."""

from datetime import UTC, datetime

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def human_bytes(count: float) -> str:
    """Decimal units with three digits at most: `0 B`, `999 B`, `1.5 kB`, `12.3 MB`, `456 GB`."""
    value, unit = float(count), 0
    # 999.5 would be shown as 1000: it belongs to the next unit.
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    if unit == 0:
        return f"{value:.0f} B"
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{digits}f} {_UNITS[unit]}"


def human_seconds(seconds: float) -> str:
    """`0.4 s`, `42 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return _two(whole // 60, "min", whole % 60, "s")
    minutes = whole // 60
    if minutes < 24 * 60:
        return _two(minutes // 60, "h", minutes % 60, "min")
    hours = minutes // 60
    return _two(hours // 24, "d", hours % 24, "h")


def human_amount(count: float, unit: str) -> str:
    """`count` in `unit`, where `bytes` becomes a size."""
    return human_bytes(count) if unit == "bytes" else f"{count:,.0f} {unit}"


def human_share(part: float, whole: float) -> str:
    """`part` in percent of `whole`: `0.3 %`, `42 %`; empty when there is no whole."""
    if whole <= 0:
        return ""
    percent = 100 * part / whole
    return f"{percent:.1f} %" if percent < 10 else f"{percent:.0f} %"


def utc_now_text() -> str:
    """The moment in the form that the API uses."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _two(large: int, large_unit: str, small: int, small_unit: str) -> str:
    return f"{large} {large_unit}" + (f" {small} {small_unit}" if small else "")
