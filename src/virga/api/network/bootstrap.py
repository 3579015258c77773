"""The networks a fresh cloud starts with: `public` that leads out, `private` that everybody may boot on, and a router between them.

Idempotent by name within the project that owns them, so that it can run at every start.
"""
from __future__ import annotations

from virga.api.http import Caller
from virga.api.network.networks import FLAT, LOCAL
from virga.api.network.noun import Attrs, Noun, Who
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


def bootstrap_network(tx: Tx, ask: Ask) -> tuple[Network, Network]:
    """Make `public`, `private` and the router for the asking (admin) project; returns the two networks, new or old."""
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
        private = NETWORKS.create(tx, who, ask.project_id, _attrs(NETWORKS, who, name=PRIVATE, shared=True))
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

