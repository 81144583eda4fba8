"""Telling whether the server that a registration names belongs to a sharded cluster, and by which address the whole of it
is found.

Asked are the server's `hello`, which needs no login, and `getShardMap`, which needs the backup user. Read-only; a crash
leaves nothing.
"""

from dataclasses import replace

from ebbtide.backup.registration import ANSWER_SECONDS, request_credentials
from ebbtide.backup.registration_checks import RegistrationRequest
from ebbtide.domain.sharding import may_name_the_whole
from ebbtide.errors import EbbtideError
from ebbtide.mongod import deployment, sharding


def whole_cluster_request(request: RegistrationRequest) -> RegistrationRequest | None:
    """What registers the sharded cluster that `request.uri` belongs to: a router or the config server is named already,
    a shard says where its config server is.

    None where the server is of none, or does not say: it is then judged as a replica set, which tells why. Takes seconds
    where nobody answers; raises nothing.
    """
    try:
        with deployment.connect_to_set(
            request.uri, None, tls=request.tls, timeout_seconds=ANSWER_SECONDS
        ) as anonymous:
            if may_name_the_whole(deployment.run_admin(anonymous, "hello")):
                return request
        with deployment.connect_to_set(
            request.uri, request_credentials(request), tls=request.tls, timeout_seconds=ANSWER_SECONDS
        ) as client:
            config = sharding.find_config_server(client)
    except EbbtideError:
        return None
    return None if config is None else replace(request, uri=config.uri)
