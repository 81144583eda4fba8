"""A client that does not hold up whoever closes it.

`MongoClient.close` tells the server which sessions end. Where the server is gone, it looks for one as long as any
operation would: ten seconds in which a worker that stops, or a keeper whose head just died, does nothing.
"""

from typing import Any

import pymongo
from pymongo import MongoClient

Document = dict[str, Any]

CLOSE_SECONDS = 1.0
"""Sessions that nobody ends are forgotten by the server after half an hour."""


class PromptClient(MongoClient[Document]):
    """A MongoClient whose `close` takes CLOSE_SECONDS at most."""

    def close(self) -> None:
        with pymongo.timeout(CLOSE_SECONDS):
            super().close()
