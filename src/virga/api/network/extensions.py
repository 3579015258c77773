"""Extensions and versions: what this network API says it can do. Only what behaves is listed.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.responses import Response

from virga.api.http import Call, Service, reply
from virga.api.network import lists
from virga.api.network.noun import Noun, View
from virga.domain.errors import Problem

UPDATED = "2026-01-01T00:00:00-00:00"
# alias -> (name, what it means here)
OFFERED: dict[str, tuple[str, str]] = {
    "address-group": ("Address group", "Named lists of prefixes for security group rules."),
    "address-scope": ("Address scope", "Sets of subnet pools whose addresses do not overlap."),
    "agent": ("agent", "The agents of the hosts."),
    "allowed-address-pairs": ("Allowed Address Pairs", "More addresses a port may send from."),
    "availability_zone": ("Availability Zone", "Zones of hosts."),
    "binding": ("Port Binding", "On which host a port is bound, and how."),
    "binding-extended": ("Port Bindings Extended", "Several bindings a port, one of them active."),
    "default-subnetpools": ("Default Subnetpools", "Subnets cut from the default pool."),
    "dns-integration": ("DNS Integration", "Names of ports and networks."),
    "empty-string-filtering": ("Empty String Filtering Extension", "An empty value filters for empty attributes."),
    "ext-gw-mode": ("Neutron L3 Configurable external gateway mode", "Source NAT of a gateway can be switched off."),
    "external-net": ("Neutron external network", "Networks that lead out."),
    "extra_dhcp_opt": ("Neutron Extra DHCP options", "DHCP options of a port."),
    "extraroute": ("Neutron Extra Route", "Routes of a router."),
    "extraroute-atomic": ("Atomically add/remove extra routes", "Routes added and removed one by one."),
    "filter-validation": ("Filter parameters validation", "Unknown filters are refused."),
    "fip-port-details": ("Floating IP Port Details Extension", "The port a floating IP leads to."),
    "floating-ip-description": ("Floating IP description", "Descriptions of floating IPs."),
    "ip-substring-filtering": ("IP address substring filtering", "Ports by a part of their address."),
    "net-mtu": ("Network MTU", "The MTU of a network."),
    "net-mtu-writable": ("Network MTU (writable)", "The MTU of a network can be set."),
    "network-ip-availability": ("Network IP Availability", "How full networks are."),
    "network_availability_zone": ("Network Availability Zone", "Zones of networks."),
    "pagination": ("Pagination support", "Lists in pages."),
    "port-mac-override": ("Override MAC address", "Owners of a network choose MACs."),
    "port-security": ("Port Security", "Filters of a port can be switched off."),
    "project-id": ("project_id field enabled", "project_id beside tenant_id."),
    "provider": ("Provider Network", "How a network is made."),
    "quota-check-limit": ("Quota engine limit check", "Limits below what is used can be refused."),
    "quota_details": ("Quota details management support", "What a project uses."),
    "quotas": ("Quota management support", "Limits of projects."),
    "rbac-address-group": ("RBAC for address groups", "Address groups can be shared."),
    "rbac-address-scope": ("Address scope RBAC", "Address scopes can be shared."),
    "rbac-policies": ("RBAC Policies", "Networks can be shared with a project."),
    "rbac-security-groups": ("Add security_group type to network RBAC", "Security groups can be shared."),
    "rbac-subnetpool": ("Add subnetpool type to RBAC", "Subnet pools can be shared."),
    "revision-if-match": ("If-Match constraints based on revision_number", "Changes on condition of a revision."),
    "router": ("Neutron L3 Router", "Routers and floating IPs."),
    "router_availability_zone": ("Router Availability Zone", "Zones of routers."),
    "security-group": ("security-group", "Filters of ports."),
    "security-groups-normalized-cidr": ("Normalized CIDR field for security group rules", "Prefixes without host bits."),
    "security-groups-remote-address-group": ("Remote address group id field", "Rules for an address group."),
    "security-groups-rules-belongs-to-default-sg": ("Security group rules belongs to default", "Rules of the default group."),
    "security-groups-shared-filtering": ("Security group filtering on the shared field", "Groups by being shared."),
    "service-type": ("Neutron Service Type Management", "Who provides routing."),
    "sorting": ("Sorting support", "Lists in an order."),
    "standard-attr-description": ("standard-attr-description", "Descriptions."),
    "standard-attr-revisions": ("Resource revision numbers", "Every change counts."),
    "standard-attr-tag": ("Tag support for resources with standard attribute", "Tags."),
    "standard-attr-timestamp": ("Resource timestamps", "When a thing was made and changed."),
    "stateful-security-group": ("Stateful security group", "Groups that follow no connections."),
    "subnet-external-network": ("Subnet belongs to an external network", "Subnets say if their network leads out."),
    "subnet-service-types": ("Subnet service types", "Subnets for one kind of port."),
    "subnet_allocation": ("Subnet Allocation", "Subnet pools."),
    "subnetpool-prefix-ops": ("Subnet Pool Prefix Operations", "Prefixes added and removed one by one."),
    "tag": ("Tag support", "Tags of networks."),
    "tag-creation": ("Tag creation", "Several tags added at once."),
    "tag-ext": ("Tag support for more resources", "Tags of subnets, ports, subnet pools, routers."),
    "tag-ports-during-bulk-creation": ("Tag Ports During Bulk Creation", "Tags given with new ports."),
}


def view(alias: str) -> View:
    name, description = OFFERED[alias]
    return {"alias": alias, "name": name, "description": description, "updated": UPDATED, "links": []}


async def on_list(call: Call) -> Response:
    views = [view(alias) for alias in OFFERED]
    return reply(200, {"extensions": [lists.choose(item, call.query) for item in views]})


async def on_show(call: Call) -> Response:
    alias = call.params["alias"]
    if alias not in OFFERED:
        raise Problem(404, f"Extension with alias {alias[:80]} does not exist", "HTTPNotFound")
    return reply(200, {"extension": view(alias)})


def root_url(call: Call) -> str:
    return f"{call.base_url()}{call.service.prefix}/v2.0/"


async def on_versions(call: Call) -> Response:
    return reply(200, {"versions": [{"id": "v2.0", "status": "CURRENT", "links": [{"rel": "self", "href": root_url(call)}]}]})


def mount(service: Service, nouns: Sequence[Noun[Any]]) -> None:
    async def on_resources(call: Call) -> Response:
        shown = [{"name": noun.one, "collection": noun.many,
                  "links": [{"rel": "self", "href": root_url(call) + (noun.path or noun.many.replace("_", "-"))}]} for noun in nouns]
        return reply(200, {"resources": shown})

    service.add("GET", "/", on_versions, open=True)
    service.table([("GET", "/v2.0", on_resources), ("GET", "/v2.0/extensions", on_list), ("GET", "/v2.0/extensions/{alias}", on_show)])
