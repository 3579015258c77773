"""Which networks a project may put servers on, and how the network side's refusals read in the compute API.

Rules: a project has its own networks and those shared with it; external ones are for routers and floating IPs, and
take a server only when they are its own or shared. Statuses of refusals follow the compute API reference (a port
quota is 403 there, 409 in the network API; an address that is taken is 400 there, 409 here).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from virga.api.http import Caller
from virga.domain.errors import Problem
from virga.domain.network import Network, RbacPolicy
from virga.store.db import Tx

EVERYBODY = "*"
SHARED, EXTERNAL = "access_as_shared", "access_as_external"


def own_and_shared(tx: Tx, project_id: str) -> list[Network]:
    """The networks a server gets by itself when its request names none, oldest first."""
    found = {network.id: network for network in tx.find(Network, project_id=project_id)}
    for network_id in _granted(tx, project_id, [SHARED]):
        network = tx.get(Network, network_id)
        if network is not None:
            found[network.id] = network
    return sorted(found.values(), key=lambda network: (network.created_at, network.id))


def usable_network(tx: Tx, caller: Caller, network_id: str) -> Network | None:
    """The network, if this caller may name it; external ones are among them."""
    network = tx.get(Network, network_id)
    if network is None or caller.sees(network.project_id):
        return network
    return network if network_id in _granted(tx, caller.project_id or "", [SHARED, EXTERNAL]) else None


def may_plug_into(tx: Tx, caller: Caller, network: Network) -> bool:
    """Whether servers may have a NIC there: external networks are for floating IPs, unless one's own or shared."""
    if not network.external or caller.sees(network.project_id):
        return True
    return network.id in _granted(tx, caller.project_id or "", [SHARED])


def _granted(tx: Tx, project_id: str, actions: list[str]) -> set[str]:
    policies = tx.find(RbacPolicy, object_type="network", target_project=[EVERYBODY, project_id], action=actions)
    return {policy.object_id for policy in policies}


# what the network side calls a refusal -> the status the compute API has for it
COMPUTE_STATUS = {
    "OverQuota": 403,
    "IpAddressGenerationFailure": 400,
    "IpAddressAlreadyAllocated": 400,
    "InvalidIpForNetwork": 400,
    "InvalidIpForSubnet": 400,
    "SecurityGroupNotFound": 400,
}


@contextmanager
def compute_status() -> Iterator[None]:
    """Give what ops refuses in the network's words (a port that cannot be made) the status the compute API documents."""
    try:
        yield
    except Problem as problem:
        status = COMPUTE_STATUS.get(problem.kind)
        if status is None or status == problem.status:
            raise
        raise Problem(status, problem.message, problem.kind) from problem
