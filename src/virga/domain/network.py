"""Networks, subnets, pools, security groups, routers, floating IPs and who may share them: the rows.

One writer: everything here is intent and belongs to the network API (inside its transactions) and, for what a port
drags along, to ops/ports.py. Ports, bindings and address allocations live in domain/port.py. A router's interfaces
are ports (`device_owner` network:router_interface, `device_id` the router), its gateway is a port too; a floating IP
holds one on the external network. So a host's view of routing is rows and nothing else. `shared` and `external` of a
network mirror its RBAC policies for target '*'; the policies are what decides who sees it.
"""
from __future__ import annotations

import msgspec

from virga.domain.row import Row

# device_owner values with a meaning of their own; facts from the networking API's port reference
ROUTER_INTERFACE, ROUTER_GATEWAY = "network:router_interface", "network:router_gateway"
FLOATING, DHCP = "network:floatingip", "network:dhcp"
COMPUTE = "compute:"
ROUTER_OWNED = (ROUTER_INTERFACE, ROUTER_GATEWAY)
# the network makes and removes these itself: they never keep a network or a subnet alive
AUTO_DELETED = (DHCP,)

# subnet modes by which an address follows from the MAC and nobody allocates it
SLAAC, DHCPV6_STATELESS, DHCPV6_STATEFUL = "slaac", "dhcpv6-stateless", "dhcpv6-stateful"

TCP_LIKE = ("tcp", "udp", "dccp", "sctp", "udplite")
# Protocol names of security group rules and their IANA numbers
PROTOCOLS: dict[str, int] = {
    "ah": 51, "dccp": 33, "egp": 8, "esp": 50, "gre": 47, "hopopt": 0, "icmp": 1, "igmp": 2, "ip": 0, "ipip": 4, "ipv6-encap": 41,
    "ipv6-frag": 44, "ipv6-icmp": 58, "icmpv6": 58, "ipv6-nonxt": 59, "ipv6-opts": 60, "ipv6-route": 43, "ospf": 89, "pgm": 113,
    "rsvp": 46, "sctp": 132, "tcp": 6, "udp": 17, "udplite": 136, "vrrp": 112,
}
# The names above that only make sense in IPv6, and the spelling the API keeps for each IPv6 ICMP name
IPV6_ONLY = ("ipv6-encap", "ipv6-frag", "ipv6-icmp", "icmpv6", "ipv6-nonxt", "ipv6-opts", "ipv6-route")
ICMP_NAMES = ("icmp", "icmpv6", "ipv6-icmp", "1", "58")


class Pool(msgspec.Struct, frozen=True):
    """A run of addresses, both ends included."""

    start: str
    end: str


class HostRoute(msgspec.Struct, frozen=True):
    """A route handed out by DHCP, or one a router carries."""

    destination: str
    nexthop: str


class Network(Row):
    """A layer-2 network. `mtu` in bytes. `segmentation_id` is a VLAN id or a VNI, None for flat and local."""

    __table__ = "networks"

    id: str
    project_id: str
    name: str = ""
    description: str = ""
    admin_state_up: bool = True
    shared: bool = False
    external: bool = False
    is_default: bool = False
    mtu: int = 1450
    network_type: str = "vxlan"
    physical_network: str | None = None
    segmentation_id: int | None = None
    port_security_enabled: bool = True
    dns_domain: str = ""
    availability_zone_hints: list[str] = []
    tags: list[str] = []
    revision_number: int = 1
    created_at: float = 0.0
    updated_at: float = 0.0


class Segment(Row):
    """One segmentation id taken. The primary key makes giving it to two networks impossible."""

    __table__ = "segments"
    __key__ = ("network_type", "physical_network", "segmentation_id")

    network_type: str
    physical_network: str  # '' for tunnels
    segmentation_id: int  # 0 for a flat network, which takes its physical network whole
    network_id: str


class Subnet(Row):
    """A block of addresses on a network. Addresses are kept in their canonical text."""

    __table__ = "subnets"

    id: str
    project_id: str
    network_id: str
    ip_version: int
    cidr: str
    name: str = ""
    description: str = ""
    gateway_ip: str | None = None
    enable_dhcp: bool = True
    allocation_pools: list[Pool] = []
    dns_nameservers: list[str] = []
    host_routes: list[HostRoute] = []
    ipv6_address_mode: str | None = None
    ipv6_ra_mode: str | None = None
    subnetpool_id: str | None = None
    service_types: list[str] = []
    tags: list[str] = []
    revision_number: int = 1
    created_at: float = 0.0
    updated_at: float = 0.0

    @property
    def automatic(self) -> bool:
        """Whether addresses follow from the MAC (IPv6 SLAAC and stateless DHCPv6)."""
        return self.ipv6_address_mode in (SLAAC, DHCPV6_STATELESS)


class SubnetPool(Row):
    """Prefixes that subnets are cut from. `default_quota` counts addresses (IPv4) or /64s (IPv6) a project may take, None for no limit."""

    __table__ = "subnet_pools"

    id: str
    project_id: str
    ip_version: int
    prefixes: list[str] = []
    name: str = ""
    description: str = ""
    default_prefixlen: int = 8
    min_prefixlen: int = 8
    max_prefixlen: int = 32
    default_quota: int | None = None
    address_scope_id: str | None = None
    shared: bool = False
    is_default: bool = False
    tags: list[str] = []
    revision_number: int = 1
    created_at: float = 0.0
    updated_at: float = 0.0


class AddressScope(Row):
    """A set of subnet pools whose addresses may not overlap."""

    __table__ = "address_scopes"

    id: str
    project_id: str
    ip_version: int
    name: str = ""
    shared: bool = False
    revision_number: int = 1
    created_at: float = 0.0
    updated_at: float = 0.0


class AddressGroup(Row):
    """A named list of CIDRs that security group rules may point at."""

    __table__ = "address_groups"

    id: str
    project_id: str
    name: str = ""
    description: str = ""
    addresses: list[str] = []
    revision_number: int = 1
    created_at: float = 0.0
    updated_at: float = 0.0


class SecurityGroup(Row):
    """A named set of rules. The one called 'default' exists once a project and cannot be deleted by it."""

    __table__ = "security_groups"

    id: str
    project_id: str
    name: str = ""
    description: str = ""
    stateful: bool = True
    tags: list[str] = []
    revision_number: int = 1
    created_at: float = 0.0
    updated_at: float = 0.0


class SecurityGroupRule(Row):
    """What a group lets through. None means "any" in every column that may be None."""

    __table__ = "security_group_rules"

    id: str
    project_id: str
    security_group_id: str
    direction: str
    ethertype: str = "IPv4"
    protocol: str | None = None
    port_range_min: int | None = None
    port_range_max: int | None = None
    remote_ip_prefix: str | None = None
    remote_group_id: str | None = None
    remote_address_group_id: str | None = None
    description: str = ""
    revision_number: int = 1
    created_at: float = 0.0
    updated_at: float = 0.0


class Router(Row):
    """A router. Its gateway's addresses are those of `gateway_port_id`."""

    __table__ = "routers"

    id: str
    project_id: str
    name: str = ""
    description: str = ""
    admin_state_up: bool = True
    gateway_network_id: str | None = None
    gateway_port_id: str | None = None
    enable_snat: bool = True
    routes: list[HostRoute] = []
    availability_zone_hints: list[str] = []
    tags: list[str] = []
    revision_number: int = 1
    created_at: float = 0.0
    updated_at: float = 0.0


class FloatingIp(Row):
    """An external address, mapped one to one to a port's fixed IP while `port_id` is set."""

    __table__ = "floating_ips"

    id: str
    project_id: str
    floating_network_id: str
    floating_ip_address: str
    floating_port_id: str
    port_id: str | None = None
    fixed_ip_address: str | None = None
    router_id: str | None = None
    description: str = ""
    dns_name: str = ""
    dns_domain: str = ""
    tags: list[str] = []
    revision_number: int = 1
    created_at: float = 0.0
    updated_at: float = 0.0

    @property
    def status(self) -> str:
        """ACTIVE while it is mapped through a router, DOWN otherwise."""
        return "ACTIVE" if self.port_id and self.router_id else "DOWN"


class RbacPolicy(Row):
    """Somebody else may use an object. `target_project` is a project id or '*'."""

    __table__ = "rbac_policies"

    id: str
    project_id: str
    object_type: str
    object_id: str
    action: str
    target_project: str
    revision_number: int = 1
    created_at: float = 0.0


class NetworkQuota(Row):
    """A project's own limit for one kind of resource; -1 is unlimited."""

    __table__ = "network_quotas"
    __key__ = ("project_id", "resource")

    project_id: str
    resource: str
    value: int


# object_type -> (row, actions a policy may grant)
SHAREABLE: dict[str, tuple[type[Row], tuple[str, ...]]] = {
    "network": (Network, ("access_as_shared", "access_as_external")),
    "subnetpool": (SubnetPool, ("access_as_shared",)),
    "address_scope": (AddressScope, ("access_as_shared",)),
    "address_group": (AddressGroup, ("access_as_shared",)),
    "security_group": (SecurityGroup, ("access_as_shared",)),
}
