"""The networks a fresh cloud starts with: `public` that leads out, `private` that the first projects boot on, and a router between them.

Idempotent by name within the project that owns them, so that it can run at every start.
`private` is lent to the first projects by a policy each and is not shared with everybody. A server request that names no network takes the one network
its project has, and is ambiguous (409) as soon as there are two: shared with all, `private` would be the second one of every project that makes its own.
"""
from __future__ import annotations

from collections.abc import Sequence

from virga.api.http import Caller
from virga.api.network.networks import FLAT, LOCAL, add_policy
from virga.api.network.noun import SHARED, Attrs, Noun, Who
from virga.api.network.routers import ROUTERS
from virga.api.network.subnets import NETWORKS, Subnets
from virga.domain.ask import Ask
from virga.domain.network import Network, Router, Subnet
from virga.ops.security_groups import default_group
from virga.store.db import Tx

PUBLIC, PRIVATE, ROUTER = "public", "private", "router1"
PUBLIC_CIDR, PRIVATE_CIDR = "172.24.4.0/24", "10.0.0.0/22"
SUBNETS = Subnets()


def _attrs(noun: Noun[Network] | Noun[Subnet] | Noun[Router], who: Who, **given: object) -> Attrs:
    return noun.checked(who, given, creating=True)


def bootstrap_network(tx: Tx, ask: Ask, lent_to: Sequence[str] = ()) -> tuple[Network, Network]:
    """Make `public`, `private` and the router for the asking (admin) project; returns the two networks, new or old.

    `lent_to` are ids of the other projects that may put ports on `private`.
    """
    caller = Caller(ask.user_id, "admin", "default", ask.project_id, "admin", "default", None, frozenset({"admin"}))
    who = Who(caller, ask, ask.project_id, True)
    default_group(tx, ask.project_id)
    public = tx.one(Network, project_id=ask.project_id, name=PUBLIC)
    if public is None:
        # With a physical network of that name the external network is it; otherwise it exists on the hosts alone.
        flat = PUBLIC in ask.config.network.physical_interface_mappings
        provider: dict[str, object] = {"provider:network_type": FLAT if flat else LOCAL}
        if flat:
            provider["provider:physical_network"] = PUBLIC
        public = NETWORKS.create(tx, who, ask.project_id, _attrs(
            NETWORKS, who, name=PUBLIC, is_default=True, **{"router:external": True}, **provider))
        SUBNETS.create(tx, who, ask.project_id, _attrs(
            SUBNETS, who, name="public-subnet", network_id=public.id, ip_version=4, cidr=ask.config.network.floating_range or PUBLIC_CIDR, enable_dhcp=False))
    private = tx.one(Network, project_id=ask.project_id, name=PRIVATE)
    if private is None:
        private = NETWORKS.create(tx, who, ask.project_id, _attrs(NETWORKS, who, name=PRIVATE))
        for project_id in lent_to:
            add_policy(tx, ask.project_id, "network", private.id, SHARED, project_id)
        SUBNETS.create(tx, who, ask.project_id, _attrs(
            SUBNETS, who, name="private-subnet", network_id=private.id, ip_version=4, cidr=PRIVATE_CIDR))
    if tx.one(Router, project_id=ask.project_id, name=ROUTER) is None:
        router = ROUTERS.create(tx, who, ask.project_id, _attrs(
            ROUTERS, who, name=ROUTER, external_gateway_info={"network_id": public.id}))
        inner = tx.one(Subnet, network_id=private.id)
        if inner is not None:
            ROUTERS.join(tx, who, router, inner.id)
    tx.hint("hostview")
    return public, private

