"""RBAC policies: who else may use a network, a subnet pool, an address scope, an address group or a security group.

Rules: the owner of the object makes them, for a project or, as an admin only, for everybody ('*'). A policy stays
while somebody lives on it: a network's ports of the project that is let in, or a gateway on an external one. The
row's own `shared` and `external` follow the policies for everybody.
"""
from __future__ import annotations

from typing import Any

from virga.api.network.fields import Field, one_of, project, text
from virga.api.network.networks import refuse_internal, refuse_unshare
from virga.api.network.noun import EVERYBODY, EXTERNAL, SHARED, Attrs, Noun, View, Who, forbidden
from virga.domain.errors import Problem
from virga.domain.network import SHAREABLE, Network, RbacPolicy, SecurityGroup
from virga.domain.port import Port
from virga.store.db import Tx
from virga.store.rows import table_of


class RbacPolicies(Noun[RbacPolicy]):
    one, many, label = "rbac_policy", "rbac_policies", "RBAC policy"
    kind = "RbacPolicyNotFound"
    absent = "RBAC policy with ID {id} not found"
    quota = "rbac_policy"
    row = RbacPolicy
    bulk = False
    fields = {
        "object_type": Field(one_of(*SHAREABLE), put=False, required=True),
        "object_id": Field(text(64, empty=False), put=False, required=True),
        "action": Field(text(64), put=False, required=True),
        "target_tenant": Field(project, required=True, column="target_project"),
    }

    def view(self, tx: Tx, who: Who, row: RbacPolicy) -> View:
        return {"id": row.id, "project_id": row.project_id, "tenant_id": row.project_id, "object_type": row.object_type,
                "object_id": row.object_id, "action": row.action, "target_tenant": row.target_project,
                "revision_number": row.revision_number}

    def create(self, tx: Tx, who: Who, project_id: str, attrs: Attrs) -> RbacPolicy:
        row_type, actions = SHAREABLE[attrs["object_type"]]
        if attrs["action"] not in actions:
            raise Problem(400, f"Invalid action '{attrs['action']}' for object type '{attrs['object_type']}'. Valid actions: {list(actions)}",
                          "InvalidRbacPolicyAction")
        if attrs["target_tenant"] == EVERYBODY and not who.admin:
            raise forbidden("rule:create_rbac_policy:target_tenant", "only an admin shares with everybody")
        found = tx.get(row_type, attrs["object_id"])
        if found is None or not who.owns(found):
            raise Problem(404, f"{attrs['object_type']} {attrs['object_id']} could not be found.", "ObjectNotFound")
        self._once(tx, attrs["object_id"], attrs["action"], attrs["target_tenant"])
        policy = RbacPolicy(tx.new_id(), project_id, attrs["object_type"], attrs["object_id"], attrs["action"], attrs["target_tenant"],
                            created_at=tx.now)
        tx.insert(policy)
        mirror(tx, policy)
        return policy

    def _once(self, tx: Tx, object_id: str, action: str, target: str) -> None:
        if tx.one(RbacPolicy, object_id=object_id, action=action, target_project=target) is not None:
            raise Problem(409, f"An RBAC policy already exists with those values: {action} on {object_id} for {target}.",
                          "DuplicateRbacPolicy")

    def change(self, tx: Tx, who: Who, row: RbacPolicy, attrs: Attrs) -> dict[str, Any]:
        target = attrs.get("target_tenant", row.target_project)
        if target == row.target_project:
            return {}
        if target == EVERYBODY and not who.admin:
            raise forbidden("rule:update_rbac_policy:target_tenant", "only an admin shares with everybody")
        self._once(tx, row.object_id, row.action, target)
        if target != EVERYBODY:
            self._refuse_used(tx, row, also=target)
        tx.update(RbacPolicy, row.id, target_project=target)
        mirror(tx, row)
        return {"target_project": target}

    def remove(self, tx: Tx, who: Who, row: RbacPolicy) -> None:
        self._refuse_used(tx, row)
        tx.delete(RbacPolicy, row.id)
        mirror(tx, row)

    def _refuse_used(self, tx: Tx, row: RbacPolicy, also: str | None = None) -> None:
        """Raises Problem 409 while somebody depends on the policy; `also` is a project that will still be let in."""
        if row.object_type == "security_group":
            self._refuse_group_used(tx, row)
        if row.object_type != "network":
            return
        network = tx.get(Network, row.object_id)
        if network is None:
            return
        others = [policy.target_project for policy in tx.find(RbacPolicy, object_id=network.id, action=row.action) if policy.id != row.id]
        kept = [*others, *([also] if also else [])]
        try:
            if row.action == SHARED and EVERYBODY not in kept and row.target_project not in kept:
                # with a policy for everybody gone, anybody may be left standing; with another one, only its project
                everybody = row.target_project == EVERYBODY
                if everybody or tx.count(Port, network_id=network.id, project_id=row.target_project):
                    refuse_unshare(tx, network, kept)
            if row.action == EXTERNAL and not kept:
                refuse_internal(tx, network)
        except Problem as problem:
            raise Problem(409, f"RBAC policy on object {row.object_id} cannot be removed because other objects depend on it. Details: "
                               f"{problem.message}", "RbacPolicyInUse") from problem

    def _refuse_group_used(self, tx: Tx, row: RbacPolicy) -> None:
        """A security group stays shared with a project while ports of that project are in it."""
        group = tx.get(SecurityGroup, row.object_id)
        own = group.project_id if group is not None else ""
        ports = tx.find(Port) if row.target_project == EVERYBODY else tx.find(Port, project_id=row.target_project)
        if any(row.object_id in port.security_groups and port.project_id != own for port in ports):
            raise Problem(409, f"RBAC policy on object {row.object_id} cannot be removed because other objects depend on it. Details: ports "
                               "are in the security group", "RbacPolicyInUse")


def mirror(tx: Tx, policy: RbacPolicy) -> None:
    """Set the object's own flags to what its policies say."""
    row_type, _ = SHAREABLE[policy.object_type]
    flags: dict[str, Any] = {}
    have = table_of(row_type).fields
    policies = tx.find(RbacPolicy, object_id=policy.object_id)
    if "shared" in have:
        flags["shared"] = any(item.action == SHARED and item.target_project == EVERYBODY for item in policies)
    if "external" in have:
        flags["external"] = any(item.action == EXTERNAL for item in policies)
    if flags:
        tx.update(row_type, policy.object_id, **flags)


RBAC = RbacPolicies()
