"""The picture of the networks that each host is shown: built from the tables, whole, whenever they change.

Two parts. `arrange` is a writing transaction: what must exist before hosts can be shown anything (a DHCP port for every network with guests on real
hosts, a host for every router). `Picture` only reads: all rows once, then one HostView a host, a pure function of them.
Rules: a port is shown to every host that has a binding of it, also one that is opening or retiring, at that binding's own generation; a host sees only
what concerns it. Clouds of fake hosts have none of this: only a host that says `networking` in its detail is shown a view, and only for such hosts
DHCP ports are made.
Routers: the host with the fewest, and it stays until that host is fenced or gone. A host that is merely away keeps its routers, as it keeps its guests:
its bridges may well be alive, and two routers with one address would be worse than none.
"""
from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from virga.domain import ipam
from virga.domain.ask import Ask
from virga.domain.config import Config
from virga.domain.errors import Problem
from virga.domain.hostview import (
    AddressView,
    FloatingView,
    HostView,
    InstanceView,
    NetworkView,
    PairView,
    PortView,
    RouterPlace,
    RouterPortView,
    RouterView,
    RuleView,
    SubnetView,
    sealed,
)
from virga.domain.network import DHCP, DHCPV6_STATEFUL, DHCPV6_STATELESS, ROUTER_INTERFACE, AddressGroup, FloatingIp, Network, Router, SecurityGroupRule, Subnet
from virga.domain.placement import Claim, Host
from virga.domain.port import Binding, Port
from virga.domain.server import Server
from virga.ops.addresses import Wish
from virga.ops.guests import metadata_of
from virga.ops.ports import change_addresses, create_port, release_port
from virga.store.db import Tx

NETWORKING = "networking"  # key of a host's detail: how it does networks; absent on fake hosts


def wants_view(host: Host) -> bool:
    return bool(host.detail.get(NETWORKING))


def served_by_dhcp(subnet: Subnet) -> bool:
    """Whether DHCP answers for this subnet: with addresses, or (stateless DHCPv6) with name servers alone."""
    return subnet.enable_dhcp and (subnet.ip_version == 4 or subnet.ipv6_address_mode in (DHCPV6_STATEFUL, DHCPV6_STATELESS))


def can_route(host: Host, outside: Network | None) -> bool:
    """Whether a router with this external network can be on this host."""
    if outside is None or outside.network_type not in ("flat", "vlan"):
        return True
    mappings = host.detail.get("physical_interface_mappings") or {}
    return outside.physical_network in mappings


# what must be there first -------------------------------------------------------------------------------------------
def is_arranged(tx: Tx) -> bool:
    """Whether `arrange` has nothing to do; cheap enough to ask before each picture."""
    hosts = {host.name: host for host in tx.find(Host) if wants_view(host)}
    return not hosts or not (_dhcp_work(tx, hosts) or _router_work(tx, hosts))


def arrange(tx: Tx, config: Config) -> None:
    """Make, change and remove DHCP ports; give routers their hosts."""
    hosts = {host.name: host for host in tx.find(Host) if wants_view(host)}
    for network, port, wishes in _dhcp_work(tx, hosts):
        if port is None:
            _make_dhcp_port(tx, config, network, wishes)
        elif not wishes:
            release_port(tx, port)
        else:
            tx.update(Port, port.id, fixed_ips=change_addresses(tx, port, network, wishes), updated_at=tx.now)
            tx.hint("hostview", "port:" + port.id)
    load: dict[str, int] = defaultdict(int)
    for place in tx.find(RouterPlace):
        load[place.host] += 1
    for router_id, choices in _router_work(tx, hosts):
        if choices:
            best = min(choices, key=lambda name: (load[name], name))
            load[best] += 1
            tx.put(RouterPlace(router_id, best, tx.now))
            tx.emit("transition", "store", "store", f"router {router_id} is on {best} now")
        else:
            tx.delete(RouterPlace, router_id)
        tx.hint("hostview")


def _dhcp_work(tx: Tx, hosts: dict[str, Host]) -> list[tuple[Network, Port | None, list[Wish]]]:
    """(network, its DHCP port, addresses it should have) where that is not so. A network nobody here uses keeps a port it has."""
    ports = tx.find(Port)
    have = {port.network_id: port for port in ports if port.device_owner == DHCP and port.device_id == _dhcp_device(port.network_id)}
    bound = {binding.port_id for binding in tx.find(Binding) if binding.host in hosts}
    used = {port.network_id for port in ports if port.id in bound}
    subnets: dict[str, list[Subnet]] = defaultdict(list)
    by_itself: set[str] = set()  # subnets on which every port of the network has an address, also this one
    for subnet in tx.find(Subnet, sort=[("created_at", False), ("id", False)]):
        if served_by_dhcp(subnet):
            subnets[subnet.network_id].append(subnet)
        elif subnet.automatic:
            by_itself.add(subnet.id)
    work: list[tuple[Network, Port | None, list[Wish]]] = []
    for network_id in sorted(used | set(have)):
        port, wanted = have.get(network_id), subnets[network_id]
        old = {fixed.subnet_id: fixed.ip_address for fixed in port.fixed_ips} if port is not None else {}
        if (port is None and wanted) or (port is not None and set(old) - by_itself != {subnet.id for subnet in wanted}):
            network = tx.get(Network, network_id)
            if network is not None:
                work.append((network, port, [Wish(subnet.id, old.get(subnet.id)) for subnet in wanted]))
    return work


def _dhcp_device(network_id: str) -> str:
    return "dhcp-" + network_id


def _make_dhcp_port(tx: Tx, config: Config, network: Network, wishes: list[Wish]) -> None:
    """It counts as the network's project's, unless that one has no port left: then it is nobody's, since guests without DHCP help no one."""
    ask = Ask(config, network.project_id, "", "req-hostview", True)
    for owner in (network.project_id, ""):
        try:
            create_port(tx, ask, network, fixed_ips=wishes, device_id=_dhcp_device(network.id), device_owner=DHCP, project_id=owner, preserve=True)
            return
        except Problem as problem:
            if problem.kind != "OverQuota":
                tx.emit("fault", "hostview", "", f"network {network.id} has no DHCP: {problem.message}")
                return


def _router_work(tx: Tx, hosts: dict[str, Host]) -> list[tuple[str, list[str]]]:
    """(router, hosts it may go to) for each router whose place is missing or no good any more."""
    places = {place.router_id: place.host for place in tx.find(RouterPlace)}
    work: list[tuple[str, list[str]]] = []
    seen = set()
    for router in tx.find(Router, sort=[("created_at", False), ("id", False)]):
        seen.add(router.id)
        outside = tx.get(Network, router.gateway_network_id) if router.gateway_network_id else None
        good = sorted(name for name, host in hosts.items() if not host.forced_down and can_route(host, outside))
        if places.get(router.id) in good:
            continue
        fresh = [name for name in good if hosts[name].state == "up"]
        if fresh or router.id in places:
            work.append((router.id, fresh))
    return work + [(router_id, []) for router_id in sorted(set(places) - seen)]


# the picture --------------------------------------------------------------------------------------------------------
class Picture:
    """All rows a view is made of, read once."""

    def __init__(self, tx: Tx, config: Config) -> None:
        self._tx, self._config = tx, config
        self.hosts = {host.name: host for host in tx.find(Host, sort=[("name", False)])}
        self._ports = {port.id: port for port in tx.find(Port, sort=[("id", False)])}
        self._networks = {network.id: network for network in tx.find(Network)}
        self._subnets: dict[str, list[Subnet]] = defaultdict(list)
        for subnet in tx.find(Subnet, sort=[("created_at", False), ("id", False)]):
            self._subnets[subnet.network_id].append(subnet)
        self._prefix = {subnet.id: ipam.network(subnet.cidr).prefixlen for group in self._subnets.values() for subnet in group}
        self._bound: dict[str, list[Binding]] = defaultdict(list)
        for binding in tx.find(Binding, sort=[("port_id", False)]):
            if binding.port_id in self._ports:
                self._bound[binding.host].append(binding)
        self._rules: dict[str, list[SecurityGroupRule]] = defaultdict(list)
        for rule in tx.find(SecurityGroupRule, sort=[("id", False)]):
            self._rules[rule.security_group_id].append(rule)
        self._dhcp = {port.network_id: port for port in self._ports.values() if port.device_owner == DHCP}
        self._members: dict[str, set[str]] = defaultdict(set)
        for port in self._ports.values():
            for group_id in port.security_groups:
                self._members[group_id] |= {fixed.ip_address for fixed in port.fixed_ips}
                self._members[group_id] |= {pair["ip_address"] for pair in port.allowed_address_pairs}
        self._inside: dict[str, list[Port]] = defaultdict(list)
        for port in self._ports.values():
            if port.device_owner == ROUTER_INTERFACE:
                self._inside[port.device_id].append(port)
        self._routers: dict[str, list[Router]] = defaultdict(list)
        for place in tx.find(RouterPlace, sort=[("router_id", False)]):
            router = tx.get(Router, place.router_id)
            if router is not None:
                self._routers[place.host].append(router)
        self._on = {name: self._networks_on(name) for name in self.hosts}

    def watchers(self) -> list[str]:
        """Hosts that are to be shown a view."""
        return [name for name, host in self.hosts.items() if wants_view(host)]

    def _networks_on(self, host: str) -> set[str]:
        on = {self._ports[binding.port_id].network_id for binding in self._bound[host]}
        for router in self._routers[host]:
            on |= {port.network_id for port in self._inside[router.id]}
            if router.gateway_network_id:
                on.add(router.gateway_network_id)
        return on & set(self._networks)

    def view(self, name: str) -> HostView:
        """What this host is to be shown, sealed."""
        ports = [self._port(binding) for binding in self._bound[name] if self._ports[binding.port_id].network_id in self._networks]
        groups = sorted({group for port in ports for group in port.groups})
        rules = {group: [self._rule(rule) for rule in self._rules[group]] for group in groups}
        remote = sorted({rule.remote_group for listed in rules.values() for rule in listed if rule.remote_group})
        return sealed(HostView(
            name, "", [self._network(network_id, name) for network_id in sorted(self._on[name])], ports, rules,
            {group: sorted(self._members[group]) for group in remote}, [self._router(router) for router in self._routers[name]],
            self._instances(ports), self._copies(name)))

    def _port(self, binding: Binding) -> PortView:
        port = self._ports[binding.port_id]
        server = self._tx.get(Server, port.device_id) if port.device_id else None
        pairs = [PairView(pair["ip_address"], pair.get("mac_address", "")) for pair in port.allowed_address_pairs]
        options = [(str(item["opt_name"]), str(item.get("opt_value") or "")) for item in port.extra_dhcp_opts]
        return PortView(
            port.id, binding.generation, port.network_id, port.mac_address, self._addresses(port), port.device_id, port.device_owner,
            port.admin_state_up and self._networks[port.network_id].admin_state_up, port.port_security_enabled, sorted(port.security_groups), pairs,
            port.dns_name or (server.hostname if server is not None else ""), options)

    def _addresses(self, port: Port) -> list[AddressView]:
        return [AddressView(fixed.ip_address, fixed.subnet_id, self._prefix[fixed.subnet_id]) for fixed in port.fixed_ips if fixed.subnet_id in self._prefix]

    def _network(self, network_id: str, name: str) -> NetworkView:
        network = self._networks[network_id]
        dhcp = self._dhcp.get(network_id)
        serving = {fixed.subnet_id: fixed.ip_address for fixed in dhcp.fixed_ips} if dhcp is not None else {}
        peers = sorted(host.address for host in self.hosts.values() if host.name != name and network_id in self._on[host.name] and not host.forced_down)
        return NetworkView(
            network.id, network.network_type, network.segmentation_id or 0, network.physical_network or "", network.mtu, peers,
            [self._subnet(subnet, serving) for subnet in self._subnets[network_id]], dhcp.id if dhcp is not None else "",
            dhcp.mac_address if dhcp is not None else "", network.dns_domain or self._config.network.dns_domain)

    def _subnet(self, subnet: Subnet, serving: dict[str, str]) -> SubnetView:
        return SubnetView(
            subnet.id, subnet.cidr, subnet.gateway_ip or "", served_by_dhcp(subnet), serving.get(subnet.id, ""), list(subnet.dns_nameservers),
            [(route.destination, route.nexthop) for route in subnet.host_routes], subnet.ipv6_address_mode or "", subnet.ipv6_ra_mode or "")

    def _rule(self, rule: SecurityGroupRule) -> RuleView:
        addresses = None
        if rule.remote_address_group_id:
            group = self._tx.get(AddressGroup, rule.remote_address_group_id)
            addresses = sorted(group.addresses) if group is not None else []
        return RuleView(rule.direction, rule.ethertype, rule.protocol, rule.port_range_min, rule.port_range_max, rule.remote_ip_prefix,
                        rule.remote_group_id, addresses)

    def _router(self, router: Router) -> RouterView:
        gateway = self._ports.get(router.gateway_port_id or "")
        hops = {4: "", 6: ""}
        if gateway is not None:
            own = {fixed.subnet_id for fixed in gateway.fixed_ips}
            for subnet in self._subnets[gateway.network_id]:
                if subnet.id in own and subnet.gateway_ip and not hops[subnet.ip_version]:
                    hops[subnet.ip_version] = subnet.gateway_ip
        floating = [FloatingView(row.floating_ip_address, row.fixed_ip_address)
                    for row in self._tx.find(FloatingIp, router_id=router.id, sort=[("floating_ip_address", False)]) if row.port_id and row.fixed_ip_address]
        return RouterView(
            router.id, router.admin_state_up, [self._router_port(port) for port in self._inside[router.id] if port.admin_state_up],
            self._router_port(gateway) if gateway is not None else None, hops[4], router.enable_snat,
            [(route.destination, route.nexthop) for route in router.routes], floating, hops[6])

    def _router_port(self, port: Port) -> RouterPortView:
        return RouterPortView(port.id, port.network_id, port.mac_address, [f"{fixed.address}/{fixed.prefix}" for fixed in self._addresses(port)])

    def _instances(self, ports: Iterable[PortView]) -> list[InstanceView]:
        floating: dict[str, dict[str, str]] = {}
        for port in ports:
            if port.server_id:
                rows = self._tx.find(FloatingIp, port_id=port.id)
                floating.setdefault(port.server_id, {}).update({row.fixed_ip_address: row.floating_ip_address for row in rows if row.fixed_ip_address})
        found = []
        for server_id in sorted(floating):
            server = self._tx.get(Server, server_id)
            if server is not None:
                found.append(InstanceView(server_id, metadata_of(server), server.user_data or "", floating[server_id]))
        return found

    def _copies(self, name: str) -> dict[str, list[str]]:
        """A server that has room claimed on this host and on another is on a move between them."""
        copies: dict[str, list[str]] = {}
        for claim in self._tx.find(Claim, host=name, sort=[("server_id", False)]):
            others = {other.host for other in self._tx.find(Claim, server_id=claim.server_id)} - {name}
            ids = sorted(self.hosts[other].id for other in others if other in self.hosts and not self.hosts[other].forced_down)
            if ids:
                copies[claim.server_id] = ids
        return copies
