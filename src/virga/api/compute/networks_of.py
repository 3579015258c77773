"""Which networks a project may put servers on: its own, those shared with it, and external ones (the caller
decides about these)."""

from __future__ import annotations

from virga.api.http import Caller
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
