"""Who may do what: one table for every room of api/ but identity, whose targets are users and domains, not
projects.

Owns: the least role each action needs, and `need`, which handlers call before they touch anything.
Rules: an action is named `service:resource:verb`. The table is asked for the exact name, then for
`service:resource:*`, and at last the verb decides: looking (`list`, `show`) needs reader, anything else member.
Only what differs from that stands here, which is nearly always something of the operator's. Roles form a chain
(admin, manager, member, reader; the `service` role stands beside it), so a rule is one word. A rule says
nothing about whose thing it is: give `project_id`, or hide the row first (`caller.sees`), because another
project's thing is a 404 and never a 403. Role names and defaults follow OpenStack's consistent and secure RBAC
goal.
"""
from __future__ import annotations

from virga.api.http import Call, Caller
from virga.domain.errors import Problem

LOOKING = frozenset({"list", "show"})
RANK = {"reader": 1, "member": 2, "manager": 3, "admin": 4}

RULES: dict[str, str] = {
    # compute: flavors, hosts and other people's servers are the operator's
    "compute:flavor:create": "admin", "compute:flavor:update": "admin", "compute:flavor:delete": "admin",
    "compute:flavor_access:*": "admin", "compute:flavor_extra_specs:create": "admin",
    "compute:flavor_extra_specs:update": "admin", "compute:flavor_extra_specs:delete": "admin",
    "compute:server:list_all": "admin", "compute:server:migrate": "manager", "compute:server:live_migrate": "manager",
    "compute:server:evacuate": "admin", "compute:server:reset_state": "admin",
    "compute:server:force_host": "admin", "compute:server:lock_override": "admin",
    "compute:server:shelve_offload": "admin", "compute:server:show_host": "admin",
    "compute:server:inject_network_info": "admin", "compute:server:reset_network": "admin",
    "compute:migration:*": "admin", "compute:server_migration:*": "admin",
    "compute:hypervisor:*": "admin", "compute:service:*": "admin", "compute:host:*": "admin",
    "compute:aggregate:*": "admin", "compute:availability_zone:detail": "admin", "compute:agent:*": "admin",
    "compute:external_events:*": "service", "compute:assisted_snapshot:*": "admin",
    "compute:quota:update": "admin", "compute:quota:delete": "admin", "compute:quota_class:update": "admin",
    "compute:usage:list": "admin", "compute:instance_action:events_detail": "admin",
    # network: what crosses projects or names a host
    "network:network:set_provider": "admin", "network:network:set_shared": "admin",
    "network:network:set_external": "admin", "network:port:set_binding": "service",
    "network:port:show_binding": "service", "network:port:set_mac_of_foreign": "admin",
    "network:router:set_distributed": "admin", "network:router:set_ha": "admin",
    "network:agent:*": "admin", "network:binding:*": "service", "network:quota:update": "admin",
    "network:quota:delete": "admin", "network:service_provider:*": "reader",
    "network:subnetpool:set_shared": "admin", "network:address_scope:set_shared": "admin",
    "network:floatingip:set_address": "admin", "network:rbac_policy:set_wildcard": "admin",
    # image
    "image:image:publicize": "admin", "image:image:set_location": "admin", "image:task:*": "admin",
    "image:cache:*": "admin", "image:metadef:create": "admin", "image:metadef:update": "admin",
    "image:metadef:delete": "admin",
    # placement is an operator's view; other services may read it
    "placement:usage:project": "reader",
    **{f"placement:{noun}:*": "service" for noun in (
        "resource_provider", "inventory", "allocation", "allocation_candidate", "aggregate", "trait", "resource_class",
        "usage", "reshaper")},
}


def least_role(rule: str) -> str:
    """The weakest role that satisfies a rule; see the module's text for the order of the look-up."""
    found = RULES.get(rule)
    if found is None:
        service_and_noun, _, verb = rule.rpartition(":")
        found = RULES.get(service_and_noun + ":*") or ("reader" if verb in LOOKING else "member")
    return found


def may(caller: Caller, rule: str) -> bool:
    """Whether the caller's roles satisfy a rule (of its own project's things; see `need`)."""
    if "admin" in caller.roles:
        return True
    least = least_role(rule)
    if least == "service":
        return "service" in caller.roles
    # Roles of a token already hold the implied ones; the rank is asked so that a cut-off chain still fails closed.
    return any(RANK.get(role, 0) >= RANK[least] for role in caller.roles)


def need(call: Call, rule: str, project_id: str | None = None) -> None:
    """Let the call pass or raise Problem 403. With `project_id`, only an admin may act outside its own project."""
    caller = call.caller
    if not may(caller, rule):
        raise Problem(
            403, f"You are not authorized to perform {rule}: it needs the role {least_role(rule)}.", "Forbidden")
    if project_id is not None and not caller.sees(project_id):
        raise Problem(403, f"You are not authorized to perform {rule} in project {project_id}.", "Forbidden")
