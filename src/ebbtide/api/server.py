"""The api process: listens, serves, and stops within seconds.

Stopping: on SIGTERM or SIGINT no new connection is taken, downloads are cut (they can be resumed), and calls under way
get `STOP_SECONDS` to end. On SIGHUP, and every few seconds, the files of its certificate are looked at. Crash: nothing
is left but transfers that count as broken off.
"""

import asyncio
import logging
import signal
import socket
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog
import uvicorn

from ebbtide.api.app import create_app
from ebbtide.api.context import ApiContext
from ebbtide.api.front import BoundedHttp
from ebbtide.api.tls import LOOK_SECONDS, ApiCertificate, find_pair
from ebbtide.catalog.catalog import Catalog
from ebbtide.clock import Clock
from ebbtide.errors import InvalidSetting
from ebbtide.listen import Listen, external_url, plain_http_warning, resolve_listen
from ebbtide.processes import keep_freed_memory
from ebbtide.restore.job_archive import JobArchives
from ebbtide.sealing import ServiceKey
from ebbtide.settings import Settings

STOP_SECONDS = 3
BACKLOG = 512
RELOAD_SECONDS = 0.25
"""So soon after SIGHUP the certificate is read."""
FREED_MEMORY_KEPT_BYTES = 4 * 1024 * 1024
"""Some chunks of a download."""

_log = structlog.get_logger("ebbtide.api")


def open_listener(listen: Listen) -> socket.socket:
    """A bound socket, not listening yet. Raises InvalidSetting where the address cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            listen.host, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise InvalidSetting(
            "api.listen", expected="an address of this machine", got=f"{listen.host}: {error}"
        ) from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        wanted = f"{listen.host}:{listen.port}: {error}"
        raise InvalidSetting("api.listen", expected="a free address", got=wanted) from None
    return listener


def run_api(
    *,
    settings: Settings,
    catalog: Catalog,
    service_key: ServiceKey,
    clock: Clock,
    repository_path: Path,
    data_dir: Path | None = None,
    on_started: Callable[[str], None] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; must run in the process's main thread. Does not close the catalog.

    `data_dir` is where heads of this machine keep their files, if it has any. `on_started` is called with the external URL once requests are taken. Raises InvalidSetting.
    """
    server, listener, _ = build_server(
        settings=settings,
        catalog=catalog,
        service_key=service_key,
        clock=clock,
        repository_path=repository_path,
        data_dir=data_dir,
        on_started=on_started,
    )
    keep_freed_memory(FREED_MEMORY_KEPT_BYTES)
    handlers = {signal.SIGTERM: server.stop, signal.SIGINT: server.stop, signal.SIGHUP: server.reload}
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        server.run(sockets=[listener])
    finally:
        listener.close()
        for number, handler in previous.items():
            signal.signal(number, handler)


def build_server(
    *,
    settings: Settings,
    catalog: Catalog,
    service_key: ServiceKey,
    clock: Clock,
    repository_path: Path,
    data_dir: Path | None = None,
    on_started: Callable[[str], None] | None = None,
) -> tuple["ApiServer", socket.socket, str]:
    """The server, its bound socket (the caller closes it) and the external URL; nothing runs yet. Raises InvalidSetting."""
    listen = resolve_listen(settings)
    pair = find_pair(settings)
    certificate = None if pair is None else ApiCertificate(pair, catalog, clock)
    listener = open_listener(listen)
    # Port 0 asked for a free one: links begin with the one that was had.
    base_url = external_url(settings, replace(listen, port=listener.getsockname()[1]))
    context = ApiContext(
        settings=settings,
        catalog=catalog,
        service_key=service_key,
        clock=clock,
        repository_path=repository_path,
        external_url=base_url,
        data_dir=data_dir,
        open_archive=JobArchives(repository_path).open,
    )

    def announce() -> None:
        _log.info("api.started", url=base_url)
        warning = plain_http_warning(listen)
        if warning is not None:
            _log.warning("api.plain_http", message=warning)
        if on_started is not None:
            on_started(base_url)

    app = create_app(context)
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=BoundedHttp,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        # Which proxies are believed is decided in `front`.
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=STOP_SECONDS,
        ssl_context_factory=None if certificate is None else lambda *_: certificate.context,
    )
    # A download that is cut ends without its last bytes on purpose; uvicorn calls that an error of the application.
    logging.getLogger("uvicorn.error").addFilter(_is_not_a_cut_download)
    server = ApiServer(config, on_started=announce, on_stop=app.state.cut_downloads, certificate=certificate)
    return server, listener, base_url


def _is_not_a_cut_download(record: logging.LogRecord) -> bool:
    return "without completing response" not in record.getMessage()


class ApiServer(uvicorn.Server):
    """uvicorn with signals left to us, and a call when it is ready."""

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        on_started: Callable[[], None],
        on_stop: Callable[[], None],
        certificate: ApiCertificate | None,
    ) -> None:
        super().__init__(config)
        self._certificate = certificate
        self._reload_asked = False
        self._watching: asyncio.Task[None] | None = None
        self._on_started = on_started
        self._on_stop = on_stop

    @contextmanager
    def capture_signals(self) -> Any:
        # uvicorn would raise the signal again after a clean stop, and end the process by it.
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            if self._certificate is not None:
                self._watching = asyncio.create_task(self._watch(self._certificate))
            self._on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._watching is not None:
            self._watching.cancel()
        self._on_stop()
        await super().shutdown(sockets=sockets)
        # Whoever does not take what was sent would keep its connection, and the event loop with it.
        for connection in list(self.server_state.connections):
            transport: Any = connection.transport
            transport.abort()
        await asyncio.sleep(0)

    async def _watch(self, certificate: ApiCertificate) -> None:
        """Look at the certificate's files: now and then, and soon after somebody asked."""
        looked_at = time.monotonic()
        while True:
            await asyncio.sleep(RELOAD_SECONDS)
            at_once, self._reload_asked = self._reload_asked, False
            if at_once or time.monotonic() - looked_at >= LOOK_SECONDS:
                looked_at = time.monotonic()
                await asyncio.to_thread(certificate.look, at_once=at_once)

    def reload(self, *_: object) -> None:
        """Have the certificate read again, soon. Safe in a signal handler and from other threads."""
        self._reload_asked = True

    def stop(self, *_: object) -> None:
        """Begin to stop; a second call stops at once. Safe in a signal handler and from other threads."""
        self.force_exit = self.should_exit
        self.should_exit = True
