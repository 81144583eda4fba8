"""The certificate of a head that speaks TLS: the running mongod shows the one that the catalog has, and its end is foretold.

Crash: the files are compared with the catalog at the first look after a start, so a change is not missed.
"""

import structlog

from ebbtide.backup.head_connection import ClusterAccess
from ebbtide.backup.head_files import secrets_are_current, write_secrets
from ebbtide.backup.head_handle import HeadHandle
from ebbtide.domain.cluster import Cluster, Head
from ebbtide.domain.event import EventLevel
from ebbtide.domain.head import certificate_warning_due
from ebbtide.domain.sealed import Sealed
from ebbtide.errors import EbbtideError
from ebbtide.mongod import deployment

_log = structlog.get_logger()


class HeadCertificate:
    """Keeps one head's certificate current."""

    def __init__(self, handle: HeadHandle) -> None:
        self._handle = handle
        self._shown: Sealed | None = None

    def forget(self) -> None:
        """The mongod ended: what the next one shows is not known."""
        self._shown = None

    def tend(self, cluster: Cluster, head: Head, access: ClusterAccess) -> None:
        """Let the head show the certificate that the catalog has, and warn before it ends."""
        if cluster.tls_certificate is None:
            return
        if cluster.tls_certificate != self._shown:
            self._renew(cluster, access)
            self._shown = cluster.tls_certificate
        now = self._handle.clock.now()
        if cluster.tls_expires is not None and certificate_warning_due(
            expires=cluster.tls_expires, warned=head.certificate_warned, now=now
        ):
            self._handle.update(certificate_warned=now)
            self._handle.event(
                cluster,
                EventLevel.WARNING,
                "head.certificate_expires",
                f"the certificate of the head of {cluster.name} ends at {cluster.tls_expires:%Y-%m-%d %H:%M} UTC; "
                f"give it another: ebbtide clusters certificate {cluster.name} --tls-certificate FILE",
            )

    def _renew(self, cluster: Cluster, access: ClusterAccess) -> None:
        if secrets_are_current(self._handle.place, access):
            return
        write_secrets(self._handle.place, access)
        self._show(access)
        self._handle.update(certificate_warned=None)
        message = f"the head of {cluster.name} shows another certificate"
        self._handle.event(cluster, EventLevel.INFO, "head.certificate_renewed", message)

    def _show(self, access: ClusterAccess) -> None:
        """Have the running head read its certificate again, with a restart where it cannot otherwise."""
        self._handle.close_clients()
        try:
            deployment.run_admin(self._handle.head_client(access), "rotateCertificates")
        except EbbtideError as error:
            _log.info("head.certificate_not_rotated", cluster_id=self._handle.cluster_id, message=str(error))
            self._handle.stop_process()
