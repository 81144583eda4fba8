"""One member of a lab, and the question that each member answers to anybody."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pymongo.errors import PyMongoError

from ebbtide.mongod.process import MongodProcess

Document = dict[str, Any]


@dataclass(kw_only=True)
class LabMember:
    """One member. `process` is replaced when the member is restarted."""

    index: int
    host: str
    port: int
    dbpath: Path
    process: MongodProcess

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"


def find_hello(member: LabMember) -> Document | None:
    """The member's answer to `hello`, which needs no credentials; None if it gives none within a second."""
    if not member.process.is_running():
        return None
    try:
        with member.process.client(serverSelectionTimeoutMS=1000, socketTimeoutMS=5000) as client:
            return dict(client.admin.command("hello"))
    except PyMongoError:
        return None
