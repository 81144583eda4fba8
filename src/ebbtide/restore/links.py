"""The key of a download link: made by the worker, sealed in the catalog, opened only to show or to compare it."""

import secrets

from ebbtide.domain.restore_job import RestoreJob
from ebbtide.domain.sealed import Sealed
from ebbtide.errors import NotFound
from ebbtide.sealing import ServiceKey

KEY_BYTES = 16


def seal_new_download_key(job: RestoreJob, service_key: ServiceKey) -> Sealed:
    """A new key, bound to its job."""
    return service_key.seal(secrets.token_hex(KEY_BYTES).encode(), record_id=job.id)


def open_download_key(job: RestoreJob, service_key: ServiceKey) -> str:
    """The key, 32 hex digits. Raises NotFound where the job has none yet, SealBroken."""
    if job.download_key is None:
        raise NotFound(f"restore job {job.id} has no download link yet")
    return service_key.open(job.download_key, record_id=job.id).decode()
