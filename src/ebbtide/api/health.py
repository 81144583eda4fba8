"""Whether this process lives, and whether the service can work: for supervisors and load balancers, without login.

What is told is general: nothing of hosts, paths, names or errors. An answer is kept for a second, so that nobody can
make the catalog work by asking.
"""

import threading
from dataclasses import dataclass
from datetime import timedelta

import anyio
import anyio.to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from ebbtide.api.context import ApiContext
from ebbtide.errors import EbbtideError
from ebbtide.repository.repository import HEADER_NAME, parse_header

LIVE_PATH = "/health/live"
READY_PATH = "/health/ready"

HEARTBEAT_MAX = timedelta(seconds=30)
"""A worker says every five seconds that it is there."""

CATALOG_SECONDS = 2.0
ANSWER_SECONDS = 5.0
"""A repository on a network share that hangs must not make the answer hang."""

KEPT_SECONDS = 1.0
THREADS = 3

OK = "ok"
NOT_ASKED = "not known"
_HEADERS = {"Cache-Control": "no-store"}


@dataclass(frozen=True, kw_only=True)
class Readiness:
    """What each part says: `ok`, or in general words what is wrong."""

    catalog: str
    worker: str
    repository: str

    @property
    def is_ready(self) -> bool:
        return {self.catalog, self.worker, self.repository} == {OK}


class Health:
    """The two endpoints of one application."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._threads = anyio.CapacityLimiter(THREADS)
        self._looking = anyio.Lock()
        self._reading = threading.Lock()
        self._kept: Readiness | None = None
        self._kept_until = float("-inf")

    async def live(self, _: Request) -> Response:
        return PlainTextResponse("ok\n", headers=_HEADERS)

    async def ready(self, _: Request) -> Response:
        async with self._looking:
            if self._kept is None or self._context.clock.monotonic() > self._kept_until:
                self._kept = await self._look()
                self._kept_until = self._context.clock.monotonic() + KEPT_SECONDS
            seen = self._kept
        document = {
            "ok": seen.is_ready,
            "catalog": seen.catalog,
            "worker": seen.worker,
            "repository": seen.repository,
        }
        return JSONResponse(document, status_code=200 if seen.is_ready else 503, headers=_HEADERS)

    async def _look(self) -> Readiness:
        found = {"catalog": "does not answer", "worker": NOT_ASKED, "repository": "does not answer"}

        async def ask_catalog() -> None:
            catalog, worker = await anyio.to_thread.run_sync(
                self._see_catalog, limiter=self._threads, abandon_on_cancel=True
            )
            found.update(catalog=catalog, worker=worker)

        async def ask_repository() -> None:
            found["repository"] = await anyio.to_thread.run_sync(
                self._see_repository, limiter=self._threads, abandon_on_cancel=True
            )

        with anyio.move_on_after(ANSWER_SECONDS):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask_catalog)
                tasks.start_soon(ask_repository)
        return Readiness(**found)

    def _see_catalog(self) -> tuple[str, str]:
        catalog = self._context.catalog
        if not catalog.answers(within_seconds=CATALOG_SECONDS):
            return "does not answer", NOT_ASKED
        try:
            workers = catalog.workers.list_all()
        except EbbtideError:
            return "does not answer", NOT_ASKED
        now = self._context.clock.now()
        alive = any(now - worker.heartbeat <= HEARTBEAT_MAX for worker in workers)
        return OK, OK if alive else "none has reported lately"

    def _see_repository(self) -> str:
        """Read its header. One thread at a time: where that hangs, the next ones must not hang too."""
        if not self._reading.acquire(blocking=False):
            return "does not answer"
        try:
            parse_header((self._context.repository_path / HEADER_NAME).read_bytes())
        except (OSError, EbbtideError):
            return "cannot be read"
        finally:
            self._reading.release()
        return OK
