"""`ebbtide serve`, and its two processes on their own: `ebbtide api` and `ebbtide worker`."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ebbtide.cli.profile import DEFAULT_PROFILE
from ebbtide.data_directory import DataDirectory
from ebbtide.listen import plain_http_warning, resolve_listen
from ebbtide.logs import configure_logs
from ebbtide.settings import Settings, resolve_settings

DEFAULT_DATA = Path("ebbtide-data")

_SERVE_EPILOG = """\b
Examples:
  ebbtide serve --data /var/lib/ebbtide
  ebbtide serve --data /var/lib/ebbtide --listen 10.1.2.3:27080 \\
      --tls-certificate chain.pem --tls-key key.pem --allow 10.1.0.0/16
  ebbtide serve --data D --repository /mnt/backups    keep the snapshots elsewhere

The first start makes an owner key. On a terminal its private key is printed once, and a
profile for the command line is written; otherwise it is in DATA/owner-key.json (0600).
SIGTERM or Ctrl-C stops everything within 20 seconds. Settings: ebbtide config show.
"""

_API_EPILOG = """\b
Examples:
  ebbtide api --data /var/lib/ebbtide --listen 127.0.0.1:27081

ebbtide serve runs this for you. Alone, it needs a catalog that is up (catalog.uri) and a
repository that `ebbtide serve` or another worker has made.
"""

_WORKER_EPILOG = """\b
Examples:
  ebbtide worker --data /var/lib/ebbtide

ebbtide serve runs this for you. SIGTERM puts running jobs back, unlocks and stops heads.
"""

DataOption = Annotated[Path, typer.Option("--data", metavar="DIR", help="Where Ebbtide keeps its files.")]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Settings file; default: DATA/ebbtide.toml.")
]
ListenOption = Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Where the API listens.")]


def register(app: typer.Typer) -> None:
    """Add `serve`, `api` and `worker` to the command line."""
    app.command("serve", epilog=_SERVE_EPILOG)(serve)
    app.command("api", epilog=_API_EPILOG, hidden=True)(api)
    app.command("worker", epilog=_WORKER_EPILOG, hidden=True)(worker)


def serve(
    data: DataOption = DEFAULT_DATA,
    config: ConfigOption = None,
    listen: ListenOption = None,
    external_url: Annotated[
        str | None, typer.Option(metavar="URL", help="What links begin with, behind a proxy.")
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(metavar="CIDR", help="Added to the first owner key's access list. Can be repeated."),
    ] = None,
    tls_certificate: Annotated[
        str | None, typer.Option(metavar="FILE", help="Certificate chain of the API, PEM.")
    ] = None,
    tls_key: Annotated[str | None, typer.Option(metavar="FILE", help="Its private key, PEM.")] = None,
    insecure_http: Annotated[
        bool, typer.Option("--insecure-http", help="Allow plain HTTP beyond loopback.")
    ] = False,
    repository: Annotated[
        str | None, typer.Option(metavar="DIR", help="Where snapshots are stored; default: DATA/repository.")
    ] = None,
    mongod: Annotated[str | None, typer.Option(metavar="PATH", help="The mongod to run.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
    log_format: Annotated[str | None, typer.Option(help="auto, console or json.")] = None,
) -> None:
    """Run everything on this machine: API, worker, and a private catalog."""
    from ebbtide.api.tls import find_pair, open_pair
    from ebbtide.clock import SystemClock
    from ebbtide.serve.supervisor import Supervisor, stop_on_signals, warn_of_memory

    flags: dict[str, Any] = {
        "api.listen": listen,
        "api.external_url": external_url,
        "api.allow": allow or None,
        "api.tls_certificate_file": tls_certificate,
        "api.tls_key_file": tls_key,
        "api.insecure_http": True if insecure_http else None,
        "repository.path": repository,
        "mongod": mongod,
        "log.level": log_level,
        "log.format": log_format,
    }
    settings = load_settings(data, config, flags)
    configure_logs(level=str(settings["log.level"]), style=str(settings["log.format"]))
    pair = find_pair(settings)
    if pair is not None:
        # Here, where whoever starts it reads why, and not in a child that is started again and again.
        open_pair(pair, now=SystemClock().now())
    supervisor = Supervisor(data, settings, config_file=config)
    stop_on_signals(supervisor)
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    on_terminal = sys.stdout.isatty()
    try:
        owner = supervisor.prepare(on_terminal=on_terminal)
    except BaseException:
        supervisor.shut_down()
        raise

    def announce() -> None:
        console.print(f"Ebbtide is at {supervisor.base_url}; its files are in {supervisor.directory.root}")
        if owner is not None and on_terminal:
            console.print(
                f"Owner key   {owner.public_key}\nPrivate key {owner.private_key}   (shown only now)"
            )
            named = "" if owner.profile_name == DEFAULT_PROFILE else f" --profile {owner.profile_name}"
            console.print(f"The command line knows it from {owner.written_to}.")
            console.print(
                f"Next: ebbtide clusters add --help{named and '; there is another server in it: say' + named}"
            )
        elif owner is not None:
            console.print(f"The owner key is in {owner.written_to}")
        for warning in (plain_http_warning(resolve_listen(settings)), warn_of_memory(settings, clusters=1)):
            if warning is not None:
                console.print(f"Warning: {warning}")

    supervisor.run(announce)


def api(data: DataOption = DEFAULT_DATA, config: ConfigOption = None, listen: ListenOption = None) -> None:
    """Run the API alone."""
    from ebbtide.api.server import run_api
    from ebbtide.catalog.catalog import Catalog
    from ebbtide.clock import SystemClock
    from ebbtide.sealing import ServiceKey

    settings = load_settings(data, config, {"api.listen": listen})
    configure_logs(level=str(settings["log.level"]), style=str(settings["log.format"]))
    directory = DataDirectory.at(data)
    catalog = Catalog.connect(
        directory.catalog_uri(settings), timeout_seconds=directory.catalog_seconds(settings)
    )
    try:
        catalog.prepare()
        run_api(
            settings=settings,
            catalog=catalog,
            service_key=ServiceKey.load_or_create(directory.service_key_file(settings)),
            clock=SystemClock(),
            repository_path=directory.repository(settings),
            data_dir=directory.root,
        )
    finally:
        catalog.close()


def worker(data: DataOption = DEFAULT_DATA, config: ConfigOption = None) -> None:
    """Run a worker alone."""
    from ebbtide.worker.process import run_worker

    settings = load_settings(data, config, {})
    configure_logs(level=str(settings["log.level"]), style=str(settings["log.format"]))
    run_worker(DataDirectory.at(data), settings)


def load_settings(data: Path, config: Path | None, flags: dict[str, Any]) -> Settings:
    """Settings from flags that were given, the environment, and the file."""
    return resolve_settings(
        flags={name: value for name, value in flags.items() if value is not None},
        environment=os.environ,
        file=config or DataDirectory.at(data).settings_file,
        file_must_exist=config is not None,
    )
