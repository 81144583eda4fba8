"""A client whose server is gone."""

import time
from collections.abc import Callable
from pathlib import Path

from ebbtide.mongod.client import PromptClient
from ebbtide.mongod.options import MongodOptions
from ebbtide.mongod.process import MongodProcess

SELECTION_SECONDS = 60


def test_closing_does_not_wait_for_a_server_that_is_gone(
    mongod_binary: Path, mongod_options: Callable[..., MongodOptions], identity_path: Path
) -> None:
    process = MongodProcess.start(mongod_binary, mongod_options(), identity_path=identity_path)
    client = PromptClient(process.uri, serverSelectionTimeoutMS=SELECTION_SECONDS * 1000)
    assert client.shop.orders.count_documents({}) == 0  # so there is a session to be ended
    process.kill()
    began = time.monotonic()
    client.close()
    assert time.monotonic() - began < SELECTION_SECONDS / 2
