"""The default security group of a project, and the rules every new group starts with.

A new group lets everything out; the default group also lets its own members in. These are the networking API's
documented defaults.
"""
from __future__ import annotations

from virga.domain.network import SecurityGroup, SecurityGroupRule
from virga.store.db import Tx

DEFAULT = "default"
ETHERTYPES = ("IPv4", "IPv6")


def default_group(tx: Tx, project_id: str) -> SecurityGroup:
    """The project's default group, made on first need."""
    group = tx.one(SecurityGroup, project_id=project_id, name=DEFAULT)
    if group is None:
        group = add_group(tx, project_id, DEFAULT, "Default security group")
    return group


def add_group(tx: Tx, project_id: str, name: str, description: str, stateful: bool = True) -> SecurityGroup:
    """A group with its first rules."""
    group = SecurityGroup(tx.new_id(), project_id, name, description, stateful, created_at=tx.now, updated_at=tx.now)
    tx.insert(group)
    for ethertype in ETHERTYPES:
        if name == DEFAULT:
            tx.insert(SecurityGroupRule(tx.new_id(), project_id, group.id, "ingress", ethertype, remote_group_id=group.id,
                                        created_at=tx.now, updated_at=tx.now))
        tx.insert(SecurityGroupRule(tx.new_id(), project_id, group.id, "egress", ethertype, created_at=tx.now, updated_at=tx.now))
    tx.hint("hostview")
    return group
