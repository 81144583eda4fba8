"""`ebbtide projects …` and `ebbtide members …`: what is kept apart, and who may do what there.

Members are API keys and service accounts that have a role in a project; `keys` and `service-accounts` make and end them.
"""

from typing import Annotated

import typer

from ebbtide.cli.callers import complete_group_roles
from ebbtide.cli.client import Document
from ebbtide.cli.render import documents
from ebbtide.cli.render.output import Output, OutputFormat
from ebbtide.cli.session import (
    GroupOption,
    OutputOption,
    ProfileOption,
    complete_members,
    complete_projects,
    open_client,
    open_session,
    resolve_group,
)

ProjectArgument = Annotated[
    str, typer.Argument(metavar="PROJECT", help="The project's name or id.", autocompletion=complete_projects)
]
MemberArgument = Annotated[
    str,
    typer.Argument(
        metavar="MEMBER",
        help="The public key, or the service account's client id.",
        autocompletion=complete_members,
    ),
]

PROJECT_HEADERS = ("ID", "NAME", "CLUSTERS", "CREATED")
MEMBER_HEADERS = ("MEMBER", "KIND", "ROLES", "IN EVERY PROJECT", "DESCRIPTION")


def register(app: typer.Typer) -> None:
    """Add `projects` and `members` to the command line."""
    projects = typer.Typer(
        name="projects", help="Projects: clusters that are kept apart from others.", no_args_is_help=True
    )
    projects.command(name="list", epilog=_LIST_EXAMPLES)(list_)
    projects.command(name="show", epilog=_SHOW_EXAMPLES)(show)
    projects.command(name="add", epilog=_ADD_EXAMPLES)(add)
    projects.command(name="rename", epilog=_RENAME_EXAMPLES)(rename)
    app.add_typer(projects)
    members = typer.Typer(name="members", help="Who may do what in a project.", no_args_is_help=True)
    members.command(name="list", epilog=_MEMBERS_EXAMPLES)(list_members)
    members.command(name="set", epilog=_SET_EXAMPLES)(set_)
    members.command(name="remove", epilog=_REMOVE_EXAMPLES)(remove)
    app.add_typer(members)


_LIST_EXAMPLES = """\b
Examples:
  ebbtide projects list
  ebbtide projects list -o json | jq -r '.[].name'
"""


def list_(output: OutputOption = OutputFormat.TEXT, profile: ProfileOption = None) -> None:
    """List the projects that this key sees."""
    with open_client(profile) as client:
        out, found = Output(output), client.list_projects()
        out.document(found)
        out.table(PROJECT_HEADERS, [_row(project) for project in found], empty="this key sees no project")


_SHOW_EXAMPLES = """\b
Examples:
  ebbtide projects show shop
"""


def show(
    project: ProjectArgument, output: OutputOption = OutputFormat.TEXT, profile: ProfileOption = None
) -> None:
    """Show one project."""
    with open_client(profile) as client:
        _show(Output(output), client.get_project(resolve_group(client, project)))


_ADD_EXAMPLES = """\b
Examples:
  ebbtide projects add shop
"""


def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call it.")],
    output: OutputOption = OutputFormat.TEXT,
    profile: ProfileOption = None,
) -> None:
    """Make an empty project. Only a global owner may do this."""
    with open_client(profile) as client:
        _show(Output(output), client.create_project(name))


_RENAME_EXAMPLES = """\b
Examples:
  ebbtide projects rename shop store
"""


def rename(
    project: ProjectArgument,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call it from now on.")],
    output: OutputOption = OutputFormat.TEXT,
    profile: ProfileOption = None,
) -> None:
    """Give a project another name; ids and links stay."""
    with open_client(profile) as client:
        _show(Output(output), client.rename_project(resolve_group(client, project), name))


_MEMBERS_EXAMPLES = """\b
Examples:
  ebbtide members list
  ebbtide members list --group shop -o json | jq -r '.[] | select(.roles == ["GROUP_OWNER"]) | .name'
"""


def list_members(
    output: OutputOption = OutputFormat.TEXT, profile: ProfileOption = None, group: GroupOption = None
) -> None:
    """List who has a role in a project, or in every project."""
    with open_session(profile, group, output) as session:
        found = session.client.list_members(session.group_id)
        session.output.document(found)
        rows = [_member_row(member) for member in found]
        session.output.table(MEMBER_HEADERS, rows, empty="nobody has a role in it")


_SET_EXAMPLES = """\b
Examples:
  ebbtide members set zmmrboas GROUP_READ_ONLY
  ebbtide members set mdb_sa_id_6650f0a1b2c3d4e5f6a7b8c9 GROUP_BACKUP_ADMIN --group shop
"""


def set_(
    member: MemberArgument,
    roles: Annotated[
        list[str],
        typer.Argument(
            metavar="ROLE",
            help="GROUP_READ_ONLY, GROUP_BACKUP_ADMIN or GROUP_OWNER.",
            autocompletion=complete_group_roles,
        ),
    ],
    output: OutputOption = OutputFormat.TEXT,
    profile: ProfileOption = None,
    group: GroupOption = None,
) -> None:
    """Give a key or a service account its roles in a project, in place of those it has there; who has none joins."""
    with open_session(profile, group, output) as session:
        _show_member(session.output, session.client.set_member_roles(session.group_id, member, roles))


_REMOVE_EXAMPLES = """\b
Examples:
  ebbtide members remove zmmrboas --group shop
"""


def remove(
    member: MemberArgument,
    output: OutputOption = OutputFormat.TEXT,
    profile: ProfileOption = None,
    group: GroupOption = None,
) -> None:
    """Take all roles in a project from a key or a service account. Global roles, and roles elsewhere, stay."""
    with open_session(profile, group, output) as session:
        _show_member(session.output, session.client.set_member_roles(session.group_id, member, []))


def _show(output: Output, project: Document) -> None:
    output.document(project)
    output.fields(list(zip(("id", "name", "clusters", "made"), _row(project), strict=True)))


def _row(project: Document) -> tuple[str, ...]:
    return tuple(documents.cell(project.get(name)) for name in ("id", "name", "clusterCount", "created"))


def _show_member(output: Output, member: Document) -> None:
    output.document(member)
    output.text(
        f"{member.get('name')} has {', '.join(member.get('roles') or []) or 'no role'} in the project"
    )


def _member_row(member: Document) -> tuple[str, ...]:
    return (
        documents.cell(member.get("name")),
        documents.cell(member.get("typeName")),
        ", ".join(member.get("roles") or []),
        ", ".join(member.get("globalRoles") or []),
        documents.cell(member.get("description")),
    )
