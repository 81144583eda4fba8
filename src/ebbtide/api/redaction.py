"""Paths as they may be logged or quoted: a download key never is.

Stricter than it must be: any path segment that could hold a key is cut, so a mistyped link does not give one away.
"""

import re

from ebbtide.logs import redact

_KEY_LIKE = re.compile(r"(?<=/)[A-Za-z0-9+=%_-]{32,}(?=/|$)")
_PATH_LENGTH_MAX = 512


def loggable_path(path: str) -> str:
    """`path` without anything that looks like a download key; long ones are cut short."""
    return _KEY_LIKE.sub("<key>", redact(path))[:_PATH_LENGTH_MAX]
