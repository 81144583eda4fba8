"""Sending events to one address, each at least once, in order, without ever holding anything else up.

The events are in the catalog, and so is how far we have come (the cursor), so neither a restart nor another worker
forgets one; a crash between the answer and the cursor sends one twice, with the same `id`. One worker at a time sends,
by a lease. The first start begins with what happens from then on.

An event becomes visible a moment after its time was taken, by whichever process; so the newest `SETTLE` are left for
the next look.
"""

import json
import logging
import threading
from datetime import timedelta
from pathlib import Path

import httpx
import structlog

from ebbtide.backup.context import BackupContext
from ebbtide.catalog.watch import WebhookCursor
from ebbtide.domain.event import Event, EventLevel
from ebbtide.domain.webhook import PassOver, SendAgain, Sent, is_refusal, is_wanted, judge_answer, payload
from ebbtide.errors import EbbtideError, InvalidSetting
from ebbtide.events import record_event
from ebbtide.logs import redact

LEASE_NAME = "webhook"
LEASE = timedelta(seconds=30)
LOOK_SECONDS = 1.0
SETTLE = timedelta(seconds=2)
BATCH = 100
ANSWER_SECONDS = 10.0
CURSOR_ID = "webhook"
HEADER_BYTES_MAX = 8192
STOP_SECONDS = 2.0

_log = structlog.get_logger()


class Webhook:
    """One worker's sender. For one thread, but for `start` and `stop`."""

    def __init__(self, context: BackupContext, url: str) -> None:
        """Raises InvalidSetting where the header's file cannot be used."""
        self._context = context
        self._catalog = context.catalog
        self._clock = context.clock
        self._url = url
        self._patterns: list[str] = list(context.settings["webhook.events"])
        headers = {"Content-Type": "application/json", "User-Agent": "ebbtide"}
        headers |= read_header(context.settings.text("webhook.header_file"))
        # No proxy of the environment, and nobody else's address by redirection: the header is a secret.
        self._client = httpx.Client(
            headers=headers, timeout=ANSWER_SECONDS, follow_redirects=False, trust_env=False
        )
        for name in ("httpx", "httpcore"):
            # At debug they would write the whole address, and some receivers keep their secret in it.
            logging.getLogger(name).setLevel(logging.WARNING)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="webhook", daemon=True)
        self._attempts = 0
        self._refusals = 0
        self._trying = ""

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ask it to end; one that waits for an answer is not waited for: it sends that event again next time."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                delay = LOOK_SECONDS
                try:
                    if self._holds_lease():
                        delay = self.send_pending()
                except EbbtideError as error:
                    _log.warning("webhook.trouble", message=str(error))
                self._wait(delay)
        finally:
            self._client.close()

    def send_pending(self) -> float:
        """Send what there is; returns the seconds until the next look. Raises the catalog's errors."""
        cursor = self._cursor()
        until = self._clock.now() - SETTLE
        for event in self._catalog.events.list_after(cursor.time, cursor.event_id, until=until, limit=BATCH):
            if is_wanted(event.kind, self._patterns):
                delay = self._send(event)
                if delay is not None:
                    return delay
            self._pass(event)
            if self._stopping.is_set() or not self._holds_lease():
                break
        return LOOK_SECONDS

    def _send(self, event: Event) -> float | None:
        """Try once. None: it is done with; else the seconds until it is tried again."""
        if event.id != self._trying:
            self._trying, self._attempts, self._refusals = event.id, 0, 0
        status = self._post(event)
        self._attempts += 1
        self._refusals += is_refusal(status)
        verdict = judge_answer(
            status,
            attempts=self._attempts,
            age=self._clock.now() - event.time,
            refusals=self._refusals,
        )
        match verdict:
            case Sent():
                _log.info("webhook.sent", event_id=event.id, kind=event.kind, attempts=self._attempts)
            case PassOver(reason=reason):
                self._tell_undelivered(event, reason)
            case SendAgain(delay=delay):
                _log.warning("webhook.not_sent", event_id=event.id, kind=event.kind, status=status)
                return delay.total_seconds()
        return None

    def _post(self, event: Event) -> int | None:
        """The status of the answer; None where there was none."""
        cluster = self._catalog.clusters.find(event.cluster_id) if event.cluster_id is not None else None
        document = payload(event, cluster_name=cluster.name if cluster is not None else None)
        document["message"] = redact(event.message)
        body = json.dumps(document, ensure_ascii=False).encode()
        try:
            # The answer's body is nobody's business, and may have no end.
            with self._client.stream("POST", self._url, content=body) as answer:
                return answer.status_code
        except httpx.HTTPError as error:
            _log.debug("webhook.no_answer", problem=type(error).__name__)
            return None

    def _tell_undelivered(self, event: Event, reason: str) -> None:
        record_event(
            self._catalog,
            self._clock,
            level=EventLevel.WARNING,
            kind="webhook.undelivered",
            message=f"{event.kind} of {event.time.isoformat(timespec='seconds')} did not reach the webhook: {reason}",
            group_id=event.group_id,
            cluster_id=event.cluster_id,
            subject_id=event.id,
        )

    # --- how far we are -------------------------------------------------------------------------------------------

    def _cursor(self) -> WebhookCursor:
        found = self._catalog.webhook_cursors.find(CURSOR_ID)
        if found is None:
            found = WebhookCursor(id=CURSOR_ID, time=self._clock.now(), event_id="")
            self._catalog.webhook_cursors.put(found)
        return found

    def _pass(self, event: Event) -> None:
        self._catalog.webhook_cursors.put(WebhookCursor(id=CURSOR_ID, time=event.time, event_id=event.id))

    def _holds_lease(self) -> bool:
        now = self._clock.now()
        return self._catalog.leases.claim(
            LEASE_NAME, worker_id=self._context.worker_id, now=now, until=now + LEASE
        )

    def _wait(self, seconds: float) -> None:
        """Wait, and keep the lease meanwhile: another worker would begin its tries anew."""
        until = self._clock.monotonic() + seconds
        while (left := until - self._clock.monotonic()) > 0:
            if self._stopping.wait(min(left, LEASE.total_seconds() / 3)):
                return
            if left > LOOK_SECONDS:
                try:
                    self._holds_lease()
                except EbbtideError as error:
                    _log.debug("webhook.trouble", message=str(error))


def webhook_of(context: BackupContext) -> Webhook | None:
    """The webhook that the settings ask for. One whose header cannot be read is told of, and not sent without it."""
    url = context.settings.text("webhook.url")
    if url is None:
        return None
    try:
        return Webhook(context, url)
    except InvalidSetting as error:
        # Backups go on without alarms rather than not at all.
        _log.error("webhook.off", message=str(error))
        return None


def read_header(path: str | None) -> dict[str, str]:
    """The header in a file, `Name: value`; none where no file is named. Raises InvalidSetting; never quotes it."""
    if path is None:
        return {}
    try:
        text = Path(path).expanduser().read_text()[:HEADER_BYTES_MAX].strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSetting(
            "webhook.header_file", expected="a file that can be read", got=type(error).__name__
        ) from None
    name, colon, value = text.partition(":")
    is_one_line = "\n" not in text and "\r" not in text
    if not colon or not name.strip() or not value.strip() or not is_one_line or not text.isascii():
        raise InvalidSetting("webhook.header_file", expected="a file with one line, Name: value")
    return {name.strip(): value.strip()}
