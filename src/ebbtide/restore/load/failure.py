"""What goes wrong while loading and does not pass by itself."""

from ebbtide.errors import EbbtideError


class LoadFailed(EbbtideError):
    """The target does not take, or does not hold, what was to be put into it; the message names the namespace."""

    exit_code = 11
