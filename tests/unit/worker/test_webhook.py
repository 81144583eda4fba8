"""The webhook against a small server on loopback, with a real catalog behind it."""

import json
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from ebbtide.catalog.catalog import Catalog
from ebbtide.clock import SystemClock
from ebbtide.domain.event import EventLevel
from ebbtide.domain.ids import GroupId
from ebbtide.errors import InvalidSetting
from ebbtide.events import record_event
from ebbtide.settings import resolve_settings
from ebbtide.worker.webhook import CURSOR_ID, SETTLE, Webhook, read_header, webhook_of

GROUP = GroupId("5f0000000000000000000001")


class MovableClock(SystemClock):
    """The machine's clock, which a test may put forward."""

    def __init__(self) -> None:
        self.ahead = timedelta(0)

    def now(self) -> datetime:
        return super().now() + self.ahead


class Receiver:
    """Takes POSTs and answers with `statuses` in turn, then with 204."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver.headers.append(dict(self.headers))
                receiver.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(receiver.statuses.pop(0) if receiver.statuses else 204)
                self.send_header("Location", "http://127.0.0.1:9/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/alarms"

    def stop(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    @property
    def messages(self) -> list[str]:
        return [body["message"] for body in self.bodies]


class Context:
    """What a webhook needs of its worker."""

    def __init__(self, catalog: Catalog, clock: SystemClock, **settings: Any) -> None:
        self.catalog = catalog
        self.clock = clock
        self.worker_id = "w"
        flags = {name.replace("_", ".", 1): value for name, value in settings.items()}
        self.settings = resolve_settings(flags=flags, environment={}, file=None)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.stop()


@pytest.fixture
def clock() -> MovableClock:
    return MovableClock()


@pytest.fixture
def new_webhook(
    catalog: Catalog, clock: MovableClock, receiver: Receiver
) -> Iterator[Callable[..., Webhook]]:
    made: list[Webhook] = []

    def new(url: str = "", **settings: Any) -> Webhook:
        context: Any = Context(catalog, clock, **settings)
        made.append(Webhook(context, url or receiver.url))
        return made[-1]

    yield new
    for webhook in made:
        webhook.stop()
        webhook._client.close()


def happen(catalog: Catalog, clock: MovableClock, message: str, kind: str = "snapshot.failed") -> None:
    """Something happens, and a moment passes."""
    record_event(
        catalog,
        clock,
        level=EventLevel.ERROR,
        kind=kind,
        message=message,
        group_id=GROUP,
        actor="key from 1.2.3.4",
    )
    clock.ahead += SETTLE + timedelta(seconds=1)


def test_what_is_wanted_is_sent_once_and_in_order(
    catalog: Catalog, clock: MovableClock, receiver: Receiver, new_webhook: Callable[..., Webhook]
) -> None:
    happen(catalog, clock, "before the first start")
    webhook = new_webhook()
    webhook.send_pending()
    happen(catalog, clock, "one")
    happen(catalog, clock, "not asked for", kind="snapshot.complete")
    happen(catalog, clock, "two: mongodb://u:p4ss@db1 is away")
    webhook.send_pending()
    webhook.send_pending()
    assert receiver.messages == ["one", "two: mongodb://<credentials>@db1 is away"]
    assert receiver.bodies[0]["kind"] == "snapshot.failed"
    assert "actor" not in receiver.bodies[0]
    assert receiver.headers[0]["Content-Type"] == "application/json"

    # Another worker, or the same one after a restart, goes on where this one was.
    happen(catalog, clock, "three")
    new_webhook().send_pending()
    assert receiver.messages[2:] == ["three"]


def test_an_event_is_left_alone_until_it_surely_has_its_place(
    catalog: Catalog, clock: MovableClock, receiver: Receiver, new_webhook: Callable[..., Webhook]
) -> None:
    webhook = new_webhook()
    webhook.send_pending()
    happen(catalog, clock, "fresh")
    clock.ahead -= SETTLE + timedelta(seconds=1)
    webhook.send_pending()
    assert receiver.bodies == []
    clock.ahead += SETTLE + timedelta(seconds=1)
    webhook.send_pending()
    assert receiver.messages == ["fresh"]


def test_a_receiver_that_is_away_for_a_while_gets_all_of_it(
    catalog: Catalog, clock: MovableClock, receiver: Receiver, new_webhook: Callable[..., Webhook]
) -> None:
    webhook = new_webhook()
    webhook.send_pending()
    receiver.statuses = [503, 302]
    happen(catalog, clock, "one")
    happen(catalog, clock, "two")
    assert [webhook.send_pending(), webhook.send_pending()] == [1.0, 2.0]
    cursor = catalog.webhook_cursors.find(CURSOR_ID)
    assert cursor is not None
    assert cursor.event_id == ""
    webhook.send_pending()
    assert receiver.messages == ["one", "one", "one", "two"]


def test_an_event_that_is_refused_thrice_is_told_of_and_does_not_hold_up_the_next(
    catalog: Catalog, clock: MovableClock, receiver: Receiver, new_webhook: Callable[..., Webhook]
) -> None:
    webhook = new_webhook(webhook_events=["*"])
    webhook.send_pending()
    receiver.statuses = [400, 400, 400]
    happen(catalog, clock, "bad")
    happen(catalog, clock, "good")
    for _ in range(3):
        webhook.send_pending()
    assert receiver.messages == ["bad", "bad", "bad", "good"]
    clock.ahead += SETTLE + timedelta(seconds=1)
    webhook.send_pending()
    assert len(receiver.bodies) == 4
    kinds = [e.kind for e in catalog.events.page(GROUP, cluster_id=None, skip=0, limit=9)]
    assert kinds.count("webhook.undelivered") == 1


def test_nobody_there_costs_nothing_but_time_and_after_a_day_nothing_at_all(
    catalog: Catalog, clock: MovableClock, new_webhook: Callable[..., Webhook]
) -> None:
    webhook = new_webhook("http://127.0.0.1:9/nobody")
    webhook.send_pending()
    happen(catalog, clock, "one")
    assert webhook.send_pending() == 1.0
    clock.ahead += timedelta(hours=25)
    webhook.send_pending()
    cursor = catalog.webhook_cursors.find(CURSOR_ID)
    assert cursor is not None
    assert cursor.event_id != ""


def test_the_thread_sends_and_stops(
    catalog: Catalog, clock: MovableClock, receiver: Receiver, new_webhook: Callable[..., Webhook]
) -> None:
    webhook = new_webhook()
    webhook.send_pending()
    happen(catalog, clock, "one")
    webhook.start()
    deadline = clock.monotonic() + 60
    while not receiver.bodies and clock.monotonic() < deadline:
        clock.sleep(0.02)
    webhook.stop()
    assert receiver.messages == ["one"]
    assert not webhook._thread.is_alive()


def test_a_header_from_a_file_is_sent_along(
    tmp_path: Path,
    catalog: Catalog,
    clock: MovableClock,
    receiver: Receiver,
    new_webhook: Callable[..., Webhook],
) -> None:
    file = tmp_path / "header"
    file.write_text("Authorization: Bearer s3cret\n")
    webhook = new_webhook(webhook_header_file=str(file))
    webhook.send_pending()
    happen(catalog, clock, "one")
    webhook.send_pending()
    assert receiver.headers[0]["Authorization"] == "Bearer s3cret"


@pytest.mark.parametrize("text", ["", "no colon s3cret", "A: s3cret\nB: c", ": s3cret", "A:", "Ä: s3cret"])
def test_a_header_that_is_none_is_refused_without_being_quoted(tmp_path: Path, text: str) -> None:
    file = tmp_path / "header"
    file.write_text(text)
    with pytest.raises(InvalidSetting) as caught:
        read_header(str(file))
    assert "s3cret" not in str(caught.value)


def test_a_worker_without_a_webhook_or_with_one_that_cannot_be_used_works_without(
    catalog: Catalog, clock: MovableClock, tmp_path: Path
) -> None:
    without: Any = Context(catalog, clock)
    assert webhook_of(without) is None
    absent = {"webhook_url": "http://127.0.0.1:9/", "webhook_header_file": str(tmp_path / "absent")}
    broken: Any = Context(catalog, clock, **absent)
    assert webhook_of(broken) is None


@pytest.mark.parametrize(
    "url", ["ftp://a/", "file:///etc/passwd", "https://user:s3cret@a/", "javascript:1", "http://", "a/b"]
)
def test_only_web_addresses_without_a_password_are_taken(url: str) -> None:
    with pytest.raises(InvalidSetting, match=r"webhook\.url"):
        resolve_settings(flags={"webhook.url": url}, environment={}, file=None)
