"""What the operator sees of the network: agents, availability zones, how full networks are, who provides routing.

Agents are a reading of the host rows: one process on a host does the work of all four kinds, and each shows as one
agent with an id that is a function of the host and the kind. They cannot be changed here: a host is disabled or
forced down by the compute API. Only admins see them.
"""
from __future__ import annotations

import hashlib
import json
from typing import Any

from starlette.responses import Response

from virga.api.http import Call, Service, reply
from virga.api.network import lists
from virga.api.network.noun import View, forbidden, stamp, who_of
from virga.domain import ipam
from virga.domain.errors import Problem
from virga.domain.network import Network, Subnet
from virga.domain.placement import UP, Host
from virga.domain.port import IpAllocation
from virga.ops.addresses import ranges_of
from virga.store.db import Tx

# (agent_type, binary, topic): names the networking API's clients know
KINDS = (
    ("Linux bridge agent", "neutron-linuxbridge-agent", "N/A"),
    ("DHCP agent", "neutron-dhcp-agent", "dhcp_agent"),
    ("L3 agent", "neutron-l3-agent", "l3_agent"),
    ("Metadata agent", "neutron-metadata-agent", "N/A"),
)
PROVIDER: View = {"service_type": "L3_ROUTER_NAT", "name": "virga", "default": True}


def id_of(host: Host, binary: str) -> str:
    digest = hashlib.sha256(f"{host.id}/{binary}".encode()).hexdigest()
    return f"{digest[:8]}-{digest[8:12]}-4{digest[13:16]}-8{digest[17:20]}-{digest[20:32]}"


def configurations(host: Host, agent_type: str) -> View:
    mappings = host.detail.get("bridge_mappings") or host.detail.get("physical_interface_mappings") or {}
    if agent_type == "Linux bridge agent":
        return {"interface_mappings": mappings, "bridge_mappings": {}, "tunnel_types": ["vxlan"], "tunneling_ip": host.address,
                "l2_population": True, "extensions": []}
    if agent_type == "L3 agent":
        return {"agent_mode": "legacy", "handle_internal_only_routers": True}
    return {}


def agent_views(hosts: list[Host]) -> list[View]:
    views = []
    for host in sorted(hosts, key=lambda host: host.name):
        for agent_type, binary, topic in KINDS:
            views.append({
                "id": id_of(host, binary), "agent_type": agent_type, "binary": binary, "host": host.name, "topic": topic,
                "availability_zone": host.availability_zone if agent_type in ("DHCP agent", "L3 agent") else None,
                "admin_state_up": True, "alive": host.state == UP and not host.forced_down, "description": None,
                "configurations": configurations(host, agent_type), "created_at": stamp(host.created_at),
                "started_at": stamp(host.created_at), "heartbeat_timestamp": stamp(host.seen_at or host.created_at),
                "resources_synced": None, "resource_versions": {},
            })
    return views


def answer(call: Call, many: str, views: list[View], known: frozenset[str], key: str = "id") -> View:
    """Filter, sort, page and cut a list of views."""
    for name, values in lists.filters_of(call.query, known).items():
        views = [view for view in views if lists.meets(view, name, values)]
    result = lists.page(lists.sort(views, call.query, lambda name: name in known), call.query, many, call.base_url() + call.path, key)
    result[many] = [lists.choose(view, call.query) for view in result[many]]
    return result


AGENT_FILTERS = frozenset({"id", "agent_type", "binary", "host", "topic", "availability_zone", "admin_state_up", "alive", "description"})


async def on_agents(call: Call) -> Response:
    who = who_of(call)
    hosts = await call.cloud.db.read(lambda tx: tx.find(Host)) if who.admin else []
    return reply(200, answer(call, "agents", agent_views(hosts), AGENT_FILTERS))


async def on_agent(call: Call) -> Response:
    who = who_of(call)
    wanted = call.params["id"]
    hosts = await call.cloud.db.read(lambda tx: tx.find(Host)) if who.admin else []
    for view in agent_views(hosts):
        if view["id"] == wanted:
            return reply(200, {"agent": lists.choose(view, call.query)})
    raise Problem(404, f"Agent {wanted[:80]} could not be found.", "AgentNotFound")


async def on_agent_change(call: Call) -> Response:
    """Nothing of an agent can be changed on its own, and the answer says where to turn."""
    if not who_of(call).admin:
        raise forbidden("rule:update_agent")
    raise Problem(400, "Bad agent request: an agent is part of its host; disable or force down the host's compute service instead.", "BadRequest")


async def on_zones(call: Call) -> Response:
    hosts = await call.cloud.db.read(lambda tx: tx.find(Host))
    names = sorted({host.availability_zone for host in hosts})
    alive = {host.availability_zone for host in hosts if host.state == UP}
    views: list[View] = [{"name": name, "resource": resource, "state": "available" if name in alive else "unavailable"}
                         for name in names for resource in ("network", "router")]
    return reply(200, answer(call, "availability_zones", views, frozenset({"name", "resource", "state"}), "name"))


def availability(tx: Tx, network: Network) -> View:
    """Addresses of a network's pools, and how many are taken; counts travel as numbers, however large."""
    shown: list[dict[str, Any]] = []
    for subnet in tx.find(Subnet, network_id=network.id, sort=[("created_at", False)]):
        total = sum(last - first + 1 for first, last in ranges_of(subnet))
        shown.append({"subnet_id": subnet.id, "subnet_name": subnet.name, "cidr": subnet.cidr, "ip_version": ipam.network(subnet.cidr).version,
                      "total_ips": total, "used_ips": tx.count(IpAllocation, subnet_id=subnet.id)})
    return {"network_id": network.id, "network_name": network.name, "project_id": network.project_id, "tenant_id": network.project_id,
            "total_ips": sum(item["total_ips"] for item in shown), "used_ips": sum(item["used_ips"] for item in shown),
            "subnet_ip_availability": shown}


async def on_availabilities(call: Call) -> Response:
    if not who_of(call).admin:
        raise forbidden("rule:get_network_ip_availability")

    def work(tx: Tx) -> list[View]:
        return [availability(tx, network) for network in tx.find(Network, sort=[("created_at", False)])]

    views = await call.cloud.db.read(work)
    versions = call.args("ip_version")
    known = frozenset({"network_id", "network_name", "project_id", "tenant_id", "ip_version"})
    for name, values in lists.filters_of(call.query, known).items():
        if name != "ip_version":
            views = [view for view in views if lists.meets(view, name, values)]
    if versions:
        for view in views:
            kept = [item for item in view["subnet_ip_availability"] if str(item["ip_version"]) in versions]
            view.update(subnet_ip_availability=kept, total_ips=sum(item["total_ips"] for item in kept),
                        used_ips=sum(item["used_ips"] for item in kept))
    return reply(200, encodable({"network_ip_availabilities": [lists.choose(view, call.query) for view in views]}))


async def on_availability(call: Call) -> Response:
    if not who_of(call).admin:
        raise forbidden("rule:get_network_ip_availability")

    def work(tx: Tx) -> View:
        network = tx.get(Network, call.params["id"])
        if network is None:
            raise Problem(404, f"Network {call.params['id'][:80]} could not be found.", "NetworkNotFound")
        return availability(tx, network)

    return reply(200, encodable({"network_ip_availability": await call.cloud.db.read(work)}))


def encodable(view: View) -> bytes:
    """JSON whose numbers may pass 64 bits: a /64 has 2**64 addresses. The quick encoder refuses those."""
    return json.dumps(view).encode()


async def on_providers(call: Call) -> Response:
    wished = lists.filters_of(call.query, frozenset(PROVIDER))
    fits = all(lists.meets(PROVIDER, name, values) for name, values in wished.items())
    return reply(200, {"service_providers": [lists.choose(PROVIDER, call.query)] if fits else []})


def mount(service: Service) -> None:
    service.table([
        ("GET", "/v2.0/agents", on_agents), ("GET", "/v2.0/agents/{id}", on_agent), ("PUT", "/v2.0/agents/{id}", on_agent_change),
        ("DELETE", "/v2.0/agents/{id}", on_agent_change), ("GET", "/v2.0/availability_zones", on_zones),
        ("GET", "/v2.0/network-ip-availabilities", on_availabilities), ("GET", "/v2.0/network-ip-availabilities/{id}", on_availability),
        ("GET", "/v2.0/service-providers", on_providers),
    ])
