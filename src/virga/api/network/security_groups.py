"""Security groups, their rules, and address groups.

Rules: a new group lets everything out; a project's default group is made when it is first looked at and cannot be
deleted by the project. A rule never exists twice (409 SecurityGroupRuleExists). Ports belong to TCP, UDP and their
like, type and code to ICMP; protocol names and numbers are one thing.
"""
from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from starlette.responses import Response

from virga.api.http import Call, Service, reply
from virga.api.network.fields import (
    Bad,
    Field,
    boolean,
    ip_or_cidr,
    list_of,
    nullable_text,
    one_of,
    optional,
    quoted,
    text,
)
from virga.api.network.noun import (
    SHARED,
    Attrs,
    Noun,
    View,
    Who,
    guarded,
    remove_policies,
    shared_ids,
    who_of,
)
from virga.domain import ipam
from virga.domain.errors import Problem
from virga.domain.network import (
    ICMP_NAMES,
    IPV6_ONLY,
    PROTOCOLS,
    TCP_LIKE,
    AddressGroup,
    SecurityGroup,
    SecurityGroupRule,
)
from virga.domain.port import Port
from virga.ops.security_groups import DEFAULT, add_group, default_group
from virga.store.db import Tx

PORT_NUMBER_MAX = 65535
ICMP_MAX = 255
TCP_LIKE_NUMBERS = {str(PROTOCOLS[name]) for name in TCP_LIKE}


def protocol(value: Any) -> str | None:
    """A name or a number 0..255, as text; 'any' and None mean any."""
    if value is None or value == "any":
        return None
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise Bad(f"{quoted(value)} is not a protocol")
    shown = str(value).lower()
    if shown.isascii() and shown.isdigit() and len(shown) <= 3 and int(shown) <= 255:
        return str(int(shown))
    if shown not in PROTOCOLS:
        raise Bad(f"{quoted(value)} is not a valid protocol: it must be a number from 0 to 255 or one of {sorted(PROTOCOLS)}")
    return shown


def port_bound(value: Any) -> int | None:
    """A port number, an ICMP type or a code; the words of the refusal are those clients look for."""
    if value is None or value == "":
        return None
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,9}", value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= PORT_NUMBER_MAX:
        raise Bad(f"Invalid value for port {quoted(value)}")
    return value


def prefix(value: Any) -> str | None:
    if value is None or value == "":
        return None
    ip_or_cidr(value)
    # What was written stays, host bits and all: `normalized_cidr` says what it means.
    return ipam.written_prefix(value) if "/" in value else str(value)


class SecurityGroups(Noun[SecurityGroup]):
    one, many, label = "security_group", "security_groups", "Security group"
    kind = "SecurityGroupNotFound"
    absent = "Security group {id} does not exist"
    rbac = "security_group"
    quota = "security_group"
    row = SecurityGroup
    tagged = True
    more_filters = frozenset({"shared"})
    fields = {
        "name": Field(text(), default=""),
        "description": Field(nullable_text(), default=""),
        "stateful": Field(boolean, default=True),
    }

    def views(self, tx: Tx, who: Who, rows: Sequence[SecurityGroup]) -> list[View]:
        ids = [row.id for row in rows]
        rules: dict[str, list[SecurityGroupRule]] = {}
        order = [("created_at", False), ("id", False)]
        found = tx.find(SecurityGroupRule, sort=order, security_group_id=ids) if len(ids) < 500 else tx.find(SecurityGroupRule, sort=order)
        for rule in found:
            rules.setdefault(rule.security_group_id, []).append(rule)
        for_me = shared_ids(tx, "security_group", who.project_id)
        return [{
            **self.base(row), "stateful": row.stateful, "shared": row.id in for_me,
            "security_group_rules": RULES.views(tx, who, rules.get(row.id, [])),
        } for row in rows]

    def create(self, tx: Tx, who: Who, project_id: str, attrs: Attrs) -> SecurityGroup:
        default_group(tx, project_id)
        if attrs["name"] == DEFAULT:
            raise Problem(409, "Default security group already exists.", "SecurityGroupDefaultAlreadyExists")
        return add_group(tx, project_id, attrs["name"], attrs["description"], attrs["stateful"])

    def change(self, tx: Tx, who: Who, row: SecurityGroup, attrs: Attrs) -> dict[str, Any]:
        if "name" in attrs and attrs["name"] != row.name and DEFAULT in (row.name, attrs["name"]):
            raise Problem(409, "Updating default security group not allowed." if row.name == DEFAULT
                          else "Default security group already exists.", "SecurityGroupCannotUpdateDefault")
        if "stateful" in attrs and attrs["stateful"] != row.stateful and ports_of(tx, row):
            raise Problem(409, f"Security Group {row.id} in use.", "SecurityGroupInUse")
        return self.columns(attrs)

    def remove(self, tx: Tx, who: Who, row: SecurityGroup) -> None:
        if row.name == DEFAULT and not who.admin:
            raise Problem(409, "Insufficient rights for removing default security group.", "SecurityGroupCannotRemoveDefault")
        if ports_of(tx, row):
            raise Problem(409, f"Security Group {row.id} in use.", "SecurityGroupInUse")
        tx.delete_where(SecurityGroupRule, security_group_id=row.id)
        tx.delete_where(SecurityGroupRule, remote_group_id=row.id)
        remove_policies(tx, row.id)
        tx.delete(SecurityGroup, row.id)

    async def on_list(self, call: Call) -> Response:
        """Looking at one's groups makes the default one."""
        who = who_of(call)
        if who.project_id and await call.cloud.db.read(
                lambda tx: tx.one(SecurityGroup, project_id=who.project_id, name=DEFAULT)) is None:
            await guarded(call, lambda tx: default_group(tx, who.project_id))
        return await super().on_list(call)


def ports_of(tx: Tx, group: SecurityGroup) -> bool:
    """Whether any port is in the group."""
    ports = tx.find(Port) if group.name != DEFAULT else tx.find(Port, project_id=group.project_id)
    return any(group.id in port.security_groups for port in ports)


class SecurityGroupRules(Noun[SecurityGroupRule]):
    one, many, label = "security_group_rule", "security_group_rules", "Security group rule"
    kind = "SecurityGroupRuleNotFound"
    absent = "Security group rule {id} does not exist"
    quota = "security_group_rule"
    row = SecurityGroupRule
    verbs = ("list", "show", "create", "delete")
    more_filters = frozenset({"belongs_to_default_sg"})
    fields = {
        "security_group_id": Field(text(64, empty=False), required=True),
        "direction": Field(one_of("ingress", "egress"), required=True),
        "ethertype": Field(one_of("IPv4", "IPv6"), default="IPv4"),
        "protocol": Field(protocol, default=None),
        "port_range_min": Field(port_bound, default=None),
        "port_range_max": Field(port_bound, default=None),
        "remote_ip_prefix": Field(prefix, default=None),
        "remote_group_id": Field(optional(text(64)), default=None),
        "remote_address_group_id": Field(optional(text(64)), default=None),
        "description": Field(nullable_text(), default=""),
    }

    def views(self, tx: Tx, who: Who, rows: Sequence[SecurityGroupRule]) -> list[View]:
        groups: dict[str, bool] = {}
        for row in rows:
            if row.security_group_id not in groups:
                group = tx.get(SecurityGroup, row.security_group_id)
                groups[row.security_group_id] = group is not None and group.name == DEFAULT
        return [{
            **self.base(row), "security_group_id": row.security_group_id, "direction": row.direction, "ethertype": row.ethertype,
            "protocol": row.protocol, "port_range_min": row.port_range_min, "port_range_max": row.port_range_max,
            "remote_ip_prefix": row.remote_ip_prefix, "normalized_cidr": normal(row.remote_ip_prefix),
            "remote_group_id": row.remote_group_id, "remote_address_group_id": row.remote_address_group_id,
            "belongs_to_default_sg": groups[row.security_group_id],
        } for row in rows]

    def create(self, tx: Tx, who: Who, project_id: str, attrs: Attrs) -> SecurityGroupRule:
        group = GROUPS.find(tx, who, attrs["security_group_id"])
        if not who.owns(group):
            raise GROUPS.not_found(group.id)
        remotes = [name for name in ("remote_ip_prefix", "remote_group_id", "remote_address_group_id") if attrs[name]]
        if len(remotes) > 1:
            raise Problem(400, "Only remote_ip_prefix or remote_group_id or remote_address_group_id may be provided.",
                          "SecurityGroupMultipleRemoteEntitiesProvided")
        if attrs["remote_group_id"]:
            GROUPS.find(tx, who, attrs["remote_group_id"])
        if attrs["remote_address_group_id"]:
            ADDRESS_GROUPS.find(tx, who, attrs["remote_address_group_id"])
        self._fits(attrs)
        rule = SecurityGroupRule(tx.new_id(), project_id, created_at=tx.now, updated_at=tx.now, **self.columns(attrs))
        rule.remote_group_id = rule.remote_group_id or None
        rule.remote_address_group_id = rule.remote_address_group_id or None
        self._alone(tx, rule)
        tx.insert(rule)
        tx.update(SecurityGroup, group.id, revision_number=group.revision_number + 1, updated_at=tx.now)
        return rule

    def _fits(self, attrs: Attrs) -> None:
        """Protocol, ports, ethertype and prefix go together. Raises Problem 400."""
        name, low, high = attrs["protocol"], attrs["port_range_min"], attrs["port_range_max"]
        ethertype = attrs["ethertype"]
        if attrs["remote_ip_prefix"] is not None:
            version = ipam.loose_network(attrs["remote_ip_prefix"]).version
            if ethertype != f"IPv{version}":
                raise Problem(400, f"Conflicting value ethertype {ethertype} for CIDR {attrs['remote_ip_prefix']}",
                              "SecurityGroupRuleParameterConflict")
        if name in IPV6_ONLY and ethertype == "IPv4":
            raise Problem(400, f"Invalid ethertype {ethertype} for protocol {name}.", "SecurityGroupEthertypeConflictWithProtocol")
        if low is None and high is None:
            return
        if name in ICMP_NAMES:
            for what, value in (("type (port_range_min)", low), ("code (port_range_max)", high)):
                if value is not None and value > ICMP_MAX:
                    raise Problem(400, f"Invalid value for ICMP {what} {value}. It must be 0 to 255.", "SecurityGroupInvalidIcmpValue")
            if low is None:
                raise Problem(400, f"ICMP code (port-range-max) {high} is provided but ICMP type (port-range-min) is missing.",
                              "SecurityGroupMissingIcmpType")
        elif name in TCP_LIKE or name in TCP_LIKE_NUMBERS:
            if low is None or high is None or low > high:
                raise Problem(400, "For TCP/UDP protocols, port_range_min must be <= port_range_max", "SecurityGroupInvalidPortRange")
            if low < 1:
                raise Problem(400, "Invalid port range: port 0 cannot be used.", "SecurityGroupInvalidPortValue")
        else:
            raise Problem(400, "Must also specify protocol if port range is given: TCP, UDP, UDPLITE, SCTP, DCCP or ICMP.",
                          "SecurityGroupProtocolRequiredWithPorts")

    def _alone(self, tx: Tx, rule: SecurityGroupRule) -> None:
        """Raises Problem 409 when the group has such a rule already; a protocol's name and number are the same."""
        for other in tx.find(SecurityGroupRule, security_group_id=rule.security_group_id, direction=rule.direction,
                             ethertype=rule.ethertype):
            same = all(getattr(other, name) == getattr(rule, name) for name in (
                "port_range_min", "port_range_max", "remote_group_id", "remote_address_group_id"))
            if same and number(other.protocol, rule.ethertype) == number(rule.protocol, rule.ethertype) and (
                    normal(other.remote_ip_prefix) == normal(rule.remote_ip_prefix)):
                raise Problem(409, f"Security group rule already exists. Rule id is {other.id}.", "SecurityGroupRuleExists")

    def remove(self, tx: Tx, who: Who, row: SecurityGroupRule) -> None:
        tx.delete(SecurityGroupRule, row.id)
        group = tx.get(SecurityGroup, row.security_group_id)
        if group is not None:
            tx.update(SecurityGroup, group.id, revision_number=group.revision_number + 1, updated_at=tx.now)


def number(name: str | None, ethertype: str) -> int | None:
    """The IANA number of a protocol as a rule means it: 'icmp' in IPv6 is ICMPv6."""
    if name is None:
        return None
    found = int(name) if name.isdigit() else PROTOCOLS[name]
    return 58 if ethertype == "IPv6" and found == 1 else found


def normal(cidr: str | None) -> str | None:
    """A prefix with its host bits cleared; a bare address as its /32 or /128."""
    return None if cidr is None else str(ipam.loose_network(cidr))


class AddressGroups(Noun[AddressGroup]):
    one, many, label = "address_group", "address_groups", "Address group"
    kind = "AddressGroupNotFound"
    rbac = "address_group"
    row = AddressGroup
    more_filters = frozenset({"shared"})
    fields = {
        "name": Field(text(), default=""),
        "description": Field(nullable_text(), default=""),
        "addresses": Field(list_of(ip_or_cidr, 4096), put=False, default=[]),
    }

    def view(self, tx: Tx, who: Who, row: AddressGroup) -> View:
        return {**self.base(row), "addresses": row.addresses,
                "shared": row.id in shared_ids(tx, "address_group", who.project_id, (SHARED,))}

    def create(self, tx: Tx, who: Who, project_id: str, attrs: Attrs) -> AddressGroup:
        group = AddressGroup(tx.new_id(), project_id, attrs["name"], attrs["description"], blocks(attrs["addresses"]), 1, tx.now, tx.now)
        tx.insert(group)
        return group

    def remove(self, tx: Tx, who: Who, row: AddressGroup) -> None:
        if tx.count(SecurityGroupRule, remote_address_group_id=row.id):
            raise Problem(409, f"Address group {row.id} is in use on one or more security group rules", "AddressGroupInUse")
        remove_policies(tx, row.id)
        tx.delete(AddressGroup, row.id)

    async def on_add(self, call: Call) -> Response:
        return await self._addresses(call, adding=True)

    async def on_remove(self, call: Call) -> Response:
        return await self._addresses(call, adding=False)

    async def _addresses(self, call: Call, adding: bool) -> Response:
        who = who_of(call)
        self.may_write(who, "update")
        body = await call.json()
        found = body.get("address_group", body) if isinstance(body, dict) else None
        try:
            given = blocks(list_of(ip_or_cidr, 4096)(found.get("addresses") if isinstance(found, dict) else None))
        except Bad as bad:
            raise Problem(400, f"Invalid input for addresses. Reason: {bad}.", "HTTPBadRequest") from bad

        def work(tx: Tx) -> View:
            row = self.mine(tx, who, call.params["id"], "update")
            wrong = [item for item in given if (item in row.addresses) == adding]
            if wrong and adding:
                raise Problem(409, f"Addresses {wrong} already exist in the address group {row.id}.", "AddressesAlreadyExist")
            if wrong:
                raise Problem(404, f"Addresses {wrong} not found in the address group {row.id}.", "AddressesNotFound")
            now = [*row.addresses, *given] if adding else [item for item in row.addresses if item not in given]
            tx.update(AddressGroup, row.id, addresses=now, revision_number=row.revision_number + 1, updated_at=tx.now)
            tx.hint("hostview")
            return self.shown(tx, who, [tx.need(AddressGroup, row.id)])[0]

        return reply(200, {"address_group": await guarded(call, work)})

    def mount(self, service: Service) -> None:
        super().mount(service)
        service.table([("PUT", "/v2.0/address-groups/{id}/add_addresses", self.on_add),
                       ("PUT", "/v2.0/address-groups/{id}/remove_addresses", self.on_remove)])


def blocks(addresses: Sequence[str]) -> list[str]:
    """Addresses as CIDRs, each once, in the order given."""
    return list(dict.fromkeys(str(ipam.loose_network(item)) for item in addresses))


GROUPS = SecurityGroups()
RULES = SecurityGroupRules()
ADDRESS_GROUPS = AddressGroups()
