"""`ebbtide doctor`: look at an installation, its clusters and the ways between, and say what to fix."""

import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from ebbtide.cli.client import EbbtideClient
from ebbtide.cli.profile import NoConnection, resolve_connection
from ebbtide.cli.render.output import Output, OutputFormat
from ebbtide.cli.serve import DEFAULT_DATA, ConfigOption, DataOption, load_settings
from ebbtide.cli.session import OutputOption, ProfileOption
from ebbtide.errors import EbbtideError, NotFound, Refused
from ebbtide.logs import configure_logs

if TYPE_CHECKING:
    from ebbtide.catalog.catalog import Catalog
    from ebbtide.data_directory import DataDirectory
    from ebbtide.doctor.checks import Finding
    from ebbtide.settings import Settings

_EXAMPLES = """\b
Examples:
  sudo -u ebbtide ebbtide doctor --data /var/lib/ebbtide
  ebbtide doctor --data /var/lib/ebbtide shop
  ebbtide doctor --data D -o json | jq -r '.findings[] | select(.verdict != "OK") | .fix'

Run it on Ebbtide's machine, as its user. It changes nothing. Exit code 3 if something failed.
"""

API_CONNECT_SECONDS = 3.0
API_READ_SECONDS = 10.0


def register(app: typer.Typer) -> None:
    """Add `doctor` to the command line."""
    app.command("doctor", epilog=_EXAMPLES)(doctor)


def doctor(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Look at this cluster only. [default: all]")
    ] = None,
    data: DataOption = DEFAULT_DATA,
    config: ConfigOption = None,
    output: OutputOption = OutputFormat.TEXT,
    profile: ProfileOption = None,
) -> None:
    """Check disk, key, mongod, repository, catalog, API keys that end, clusters, clocks, and the ways between."""
    # Late: they bring the catalog's driver along, which no command that talks to the API needs.
    from ebbtide.catalog.catalog import Catalog
    from ebbtide.clock import SystemClock
    from ebbtide.data_directory import DataDirectory
    from ebbtide.doctor.checks import Verdict, judge_machine
    from ebbtide.doctor.credentials import gather_credentials, judge_credentials
    from ebbtide.doctor.machine import CATALOG_SECONDS, gather_machine

    settings = load_settings(data, config, {})
    # Without this, log lines go to standard output, among the result.
    configure_logs(level=str(settings["log.level"]), style=str(settings["log.format"]))
    out = Output(output)
    directory = DataDirectory.at(data)
    api, api_problem, api_fix = ask_api(profile)
    catalog = Catalog.connect(directory.catalog_uri(settings), timeout_seconds=CATALOG_SECONDS)
    try:
        facts = gather_machine(
            directory, settings, catalog=catalog, api=api, api_problem=api_problem, api_fix=api_fix
        )
        findings = judge_machine(facts)
        if not facts.catalog_problem:
            findings += judge_credentials(gather_credentials(catalog), now=SystemClock().now())
        if not (facts.catalog_problem or facts.key_problem):
            findings += look_at_clusters(catalog, directory, settings, name)
    finally:
        catalog.close()
    failed = sum(finding.verdict is Verdict.FAILED for finding in findings)
    out.document({"ok": failed == 0, "findings": [asdict(finding) for finding in findings]})
    for line in finding_lines(findings):
        out.text(line)
    if failed:
        raise Refused(f"{failed} of {len(findings)} checks failed", hint="each has its fix beside it, above")


def look_at_clusters(
    catalog: "Catalog", directory: "DataDirectory", settings: "Settings", name: str | None
) -> "list[Finding]":
    """The findings about every live cluster, or the one named. Raises NotFound."""
    from ebbtide.clock import SystemClock
    from ebbtide.doctor.checks import judge_cluster
    from ebbtide.doctor.cluster import gather_cluster
    from ebbtide.doctor.machine import ask_head_mongod
    from ebbtide.sealing import ServiceKey

    clusters = [c for c in catalog.clusters.list_live() if name is None or name in (c.name, c.id)]
    if name is not None and not clusters:
        raise NotFound(f"no cluster is named {name!r}", hint="ebbtide clusters list")
    service_key = ServiceKey.load_or_create(directory.service_key_file(settings))
    findings: list[Finding] = []
    for cluster in clusters:
        findings += judge_cluster(
            gather_cluster(
                cluster,
                catalog=catalog,
                service_key=service_key,
                clock=SystemClock(),
                our_version=ask_head_mongod(cluster, settings),
            )
        )
    return findings


def ask_api(profile: str | None) -> tuple[str, str, str]:
    """(URL, problem, fix): whether the profile leads to an API that accepts its key. No URL: there is no profile."""
    try:
        connection = resolve_connection(profile=profile, environment=os.environ)
    except NoConnection as error:
        return "", error.message, error.hint
    except EbbtideError as error:
        return "the profile", error.message, error.hint
    try:
        with EbbtideClient(
            connection, connect_seconds=API_CONNECT_SECONDS, read_seconds=API_READ_SECONDS
        ) as client:
            client.list_groups()
    except EbbtideError as error:
        return connection.base_url, error.message, error.hint
    return connection.base_url, "", ""


def finding_lines(findings: "list[Finding]") -> list[str]:
    """For people: a line for each finding, its fix below it, a line of its own for each subject."""
    lines: list[str] = []
    subject = ""
    for finding in findings:
        if finding.subject != subject:
            subject = finding.subject
            lines += ([""] if lines else []) + [subject]
        lines.append(f"  {finding.verdict.value:<7}  {finding.name}: {finding.what}")
        if finding.fix:
            lines.append(f"           fix: {finding.fix}")
    return lines
