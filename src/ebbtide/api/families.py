"""The families of the API, and what differs between them: the base of their paths, how a cluster is named in them, and
the media types they take and send. The rules themselves are the same in all of them.

Sources: contract sections 1, 2, 3 and 11.
"""

import re
from enum import Enum

JSON_TYPE = "application/json"
ATLAS_V2_TYPE = "application/vnd.atlas.2023-01-01+json"

_ATLAS_DATED = re.compile(r"application/vnd\.atlas\.\d{4}-\d{2}-\d{2}\+json")


class Family(Enum):
    """One family; the value is the base of its paths."""

    ATLAS = "/api/atlas/v1.0"  # clusters by name
    ATLAS_V2 = "/api/atlas/v2"  # the same under a dated media type
    CLOUD = "/api/public/v1.0"  # Cloud and Ops Manager: clusters by id
    OWN = "/api/ebbtide/v1"  # Ebbtide's own: clusters by name

    @property
    def names_clusters_by_id(self) -> bool:
        return self is Family.CLOUD

    @property
    def media_type(self) -> str:
        """Of its answers; refusals are plain JSON everywhere."""
        return ATLAS_V2_TYPE if self is Family.ATLAS_V2 else JSON_TYPE

    @property
    def names_bad_fields(self) -> bool:
        """Whether a 400 about a body has `badRequestDetail`; Cloud and Ops Manager know no such member."""
        return self is not Family.CLOUD

    def takes(self, media_type: str) -> bool:
        """Whether a body may be of this media type (lower case, without parameters); none at all counts as JSON."""
        if media_type in ("", JSON_TYPE):
            return True
        return self is Family.ATLAS_V2 and _ATLAS_DATED.fullmatch(media_type) is not None


def family_of(path: str) -> Family:
    """The family of a path; what belongs to none counts as Ebbtide's own."""
    for family in Family:
        if path.startswith(f"{family.value}/"):
            return family
    return Family.OWN
