"""What one host must know of the cloud's networks, as values: the controller's newest view, whole.

Writer: ops/hostview.py builds it from the tables in one transaction; agents only read. It is a level, not a change: an agent that gets the same
view twice does nothing the second time, one that missed ten gets the eleventh and is right. `version` is a hash of everything else, so equal views
have equal versions and need not be sent again.
A host learns only of ports bound to it, of the networks those ports are on, of addresses of security groups its ports' rules name, and of routers
placed on it. It never learns a user's data of servers that are elsewhere.
"""
from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from virga.domain.row import Row


class PairView(msgspec.Struct, frozen=True):
    """An allowed address pair. `address` is an address or CIDR; `mac` '' means the port's own."""

    address: str
    mac: str = ""


class RuleView(msgspec.Struct, frozen=True):
    """One security group rule. `protocol` is a name or a number as text, None for any; for ICMP `port_min` is the type and `port_max` the code.

    At most one of `remote_cidr` and `remote_group` is set; `remote_addresses` are those of an address group, resolved.
    """

    direction: str
    ethertype: str = "IPv4"
    protocol: str | None = None
    port_min: int | None = None
    port_max: int | None = None
    remote_cidr: str | None = None
    remote_group: str | None = None
    remote_addresses: list[str] | None = None


class AddressView(msgspec.Struct, frozen=True):
    """A fixed address and its subnet's prefix length."""

    address: str
    subnet_id: str
    prefix: int


class PortView(msgspec.Struct, frozen=True):
    """A port bound to this host, at the generation of its binding here."""

    id: str
    generation: int
    network_id: str
    mac: str
    addresses: list[AddressView] = []
    server_id: str = ""
    owner: str = ""
    admin_up: bool = True
    port_security: bool = True
    groups: list[str] = []
    pairs: list[PairView] = []
    hostname: str = ""
    dhcp_options: list[tuple[str, str]] = []  # (option name or number, value)


class SubnetView(msgspec.Struct, frozen=True):
    """A subnet as DHCP and router advertisements need it.

    `dhcp_address` is the address the DHCP and metadata service has in it ('' when DHCP is off); without `ipv6_ra_mode` no router of ours advertises it.
    """

    id: str
    cidr: str
    gateway: str = ""
    dhcp: bool = True
    dhcp_address: str = ""
    dns: list[str] = []
    routes: list[tuple[str, str]] = []  # (destination CIDR, next hop)
    ipv6_address_mode: str = ""
    ipv6_ra_mode: str = ""


class NetworkView(msgspec.Struct, frozen=True):
    """A network with ports on this host. `peers` are the tunnel addresses of the other hosts that have ports on it.

    The DHCP port is one for the whole network, present on every host with the same MAC and addresses: each host answers its own guests and lets
    no frame of it out to the others. So a lease is a local fact, and a guest that moves keeps its server.
    """

    id: str
    type: str = "vxlan"
    segmentation_id: int = 0
    physical_network: str = ""
    mtu: int = 1450
    peers: list[str] = []
    subnets: list[SubnetView] = []
    dhcp_port_id: str = ""
    dhcp_mac: str = ""
    dns_domain: str = ""


class RouterPortView(msgspec.Struct, frozen=True):
    """A router's port. `addresses` carry their prefix length ('10.0.0.1/24')."""

    id: str
    network_id: str
    mac: str
    addresses: list[str]


class FloatingView(msgspec.Struct, frozen=True):
    """A floating address and the fixed one behind it."""

    floating: str
    fixed: str


class RouterView(msgspec.Struct, frozen=True):
    """A router placed on this host. `gateway` is its port on the external network; `next_hop` and `next_hop6` that network's gateway addresses."""

    id: str
    admin_up: bool = True
    ports: list[RouterPortView] = []
    gateway: RouterPortView | None = None
    next_hop: str = ""
    snat: bool = True
    routes: list[tuple[str, str]] = []
    floating: list[FloatingView] = []
    next_hop6: str = ""


class InstanceView(msgspec.Struct, frozen=True):
    """What the metadata service says of one server. `document` is its meta_data.json; `user_data` is base64 text as the API took it.

    `floating` has the floating address of each fixed one that has any.
    """

    server_id: str
    document: dict[str, Any] = {}
    user_data: str = ""
    floating: dict[str, str] = {}


class HostView(msgspec.Struct, frozen=True):
    """Everything one host must know. `members` gives, per security group named in a rule here, the addresses of its ports everywhere."""

    host: str
    version: str = ""
    networks: list[NetworkView] = []
    ports: list[PortView] = []
    groups: dict[str, list[RuleView]] = {}
    members: dict[str, list[str]] = {}
    routers: list[RouterView] = []
    instances: list[InstanceView] = []
    copies: dict[str, list[str]] = {}  # server id -> ids of the hosts that may copy its disk from here, because a move takes it there

    def network(self, network_id: str) -> NetworkView | None:
        return next((network for network in self.networks if network.id == network_id), None)

    def port(self, port_id: str) -> PortView | None:
        return next((port for port in self.ports if port.id == port_id), None)


class RouterPlace(Row):
    """On which host a router is. Its own row because it is a decision, kept until that host is fenced or gone: routers do not wander with every hiccup."""

    __table__ = "router_places"
    __key__ = ("router_id",)

    router_id: str
    host: str
    updated_at: float = 0.0


def sealed(view: HostView) -> HostView:
    """The same view with its `version` set from its content."""
    bare = msgspec.structs.replace(view, version="")
    text = msgspec.json.encode(bare, order="deterministic")
    return msgspec.structs.replace(bare, version=hashlib.sha256(text).hexdigest()[:16])


def read_view(data: dict[str, Any]) -> HostView:
    """From what came over the link. Raises ValueError naming the field that does not fit."""
    try:
        return msgspec.convert(data, HostView)
    except msgspec.ValidationError as error:
        raise ValueError(f"the host view does not fit: {error}") from error
