"""`ebbtide demo`."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Annotated, Any

import typer

from ebbtide.cli.render.output import Output, OutputFormat
from ebbtide.errors import EbbtideError, InvalidInput

_EPILOG = """\b
Examples:
  ebbtide demo                   the whole story; stays up until Ctrl-C
  ebbtide demo --once --json     walk it, tear everything down, print one JSON object
  ebbtide demo --detach --json   leave it running, print how to reach it
  ebbtide demo --stop            end it, and clean up what a killed one left
  ebbtide demo --sharded         the story of a sharded cluster: one moment for all of its parts

Takes 3 GB of disk in the temporary directory (TMPDIR) and 2 GB of memory while it runs.
"""

DETACH_READY_SECONDS = 600.0


def register(app: typer.Typer) -> None:
    """Add `demo` to the command line."""
    app.command("demo", epilog=_EPILOG)(demo)


def demo(
    once: Annotated[bool, typer.Option("--once", help="Tear everything down at the end.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Leave it running in the background.")] = False,
    stop: Annotated[bool, typer.Option("--stop", help="End the running demo.")] = False,
    sharded: Annotated[
        bool, typer.Option("--sharded", help="On a sharded cluster, with money moving between its shards.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object last.")] = False,
    background: Annotated[bool, typer.Option("--background", hidden=True)] = False,
) -> None:
    """See it work: back up, download and restart a throwaway replica set."""
    if sum((once, detach, stop)) > 1:
        raise InvalidInput("options", expected="one of --once, --detach and --stop")
    output = Output(OutputFormat.JSON if as_json else OutputFormat.TEXT)
    if stop:
        _stop(output)
    elif detach:
        _detach(output, sharded=sharded)
    else:
        _walk(output, sharded=sharded, once=once, background=background)


def _walk(output: Output, *, sharded: bool, once: bool, background: bool) -> None:
    from ebbtide.demo.place import DemoPlace
    from ebbtide.demo.requirements import check_machine
    from ebbtide.demo.sharded import ShardedWalk
    from ebbtide.demo.walk import DemoFailed, Walk
    from ebbtide.mongod.binary import find_mongod

    place = DemoPlace.of_this_user()
    stopping = threading.Event()
    _stop_on_signals(stopping)
    say = output.remark if output.as_json or background else output.text
    with place.lock():
        if place.clear_leftovers():
            say("cleaned up what an earlier demo had left")
        check_machine(place.root)
        binary = find_mongod(os.environ.get("EBBTIDE_MONGOD"))
        place.write_record({})
        try:
            with (ShardedWalk if sharded else Walk)(place, binary, output, say) as walk:
                result = walk.run_sharded() if isinstance(walk, ShardedWalk) else walk.run()
                facts = walk.facts(snapshot_ids=result.snapshot_ids)
                place.write_record({**facts, "result": result.document()})
                if not once:
                    # In the background nobody reads this but a log file, and it has a key in it.
                    if not background:
                        _invite(facts, say)
                        say("Ctrl-C ends it and removes everything.")
                    stopping.wait()
        finally:
            place.clear_leftovers()
    if once or output.as_json:
        output.document(result.document())
    if not result.ok:
        raise DemoFailed("the demo did not show what it should: see above")


def _invite(facts: dict[str, Any], say: Callable[[str], None]) -> None:
    key = f"{facts['public_key']}:{facts['private_key']}"
    path = (
        f"/api/atlas/v1.0/groups/{facts['group_id']}/clusters/{facts['cluster_name']}/restoreJobs?pretty=true"
    )
    say("")
    say(f"Ebbtide is up at {facts['base_url']}. Try:")
    say(f"  curl --user {key} --digest '{facts['base_url']}{path}'")


def _stop_on_signals(stopping: threading.Event) -> None:
    """The first SIGTERM or Ctrl-C ends the demo in order, wherever it is."""

    def handle(*_: object) -> None:
        if not stopping.is_set():
            stopping.set()
            raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)


def _stop(output: Output) -> None:
    from ebbtide.demo.place import DemoPlace, stop_demo

    did = stop_demo(DemoPlace.of_this_user())
    output.document({"stopped": did})
    output.text("the demo is stopped, and everything of it removed" if did else "no demo is running")


def _detach(output: Output, *, sharded: bool) -> None:
    """Walk in a process of its own, and return once it stays up."""
    from ebbtide.demo.place import DemoPlace

    place = DemoPlace.of_this_user()
    place.lock().close()
    log_path = place.root / "demo.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "ebbtide", "demo", "--background"),
                *(("--sharded",) if sharded else ()),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    deadline = time.monotonic() + DETACH_READY_SECONDS
    while time.monotonic() < deadline:
        record = place.read_record()
        if record.get("pid") == process.pid and "result" in record:
            break
        if process.poll() is not None:
            raise EbbtideError(f"the demo did not come up:\n{log_path.read_text(errors='replace')[-2000:]}")
        time.sleep(0.2)
    else:
        raise EbbtideError(
            "the demo did not come up in time", hint=f"see {log_path}; ebbtide demo --stop ends it"
        )
    facts = {name: record[name] for name in _FACTS}
    if output.as_json:
        output.document(facts)
    else:
        _invite(facts, output.text)
        output.text("It stays up until: ebbtide demo --stop")
    if not record["result"]["ok"]:
        raise EbbtideError(f"the demo did not show what it should: {json.dumps(record['result'])}")


_FACTS = (
    "base_url",
    "public_key",
    "private_key",
    "group_id",
    "cluster_id",
    "cluster_name",
    "snapshot_ids",
    "mongodb_uri",
    "data_dir",
)
