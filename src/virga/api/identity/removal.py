"""What goes with what: the rows of identity that vanish with a user, a project or a domain.

Rule: called inside the transaction that deletes; nothing is left that names a thing which is gone, but the
catalog's and policies' records.
"""
from __future__ import annotations

from virga.api.identity import revoke
from virga.domain.errors import Problem
from virga.domain.identity import (
    AccessRule,
    ApplicationCredential,
    Assignment,
    Credential,
    Group,
    Membership,
    Project,
    ProjectEndpoint,
    Role,
    Target,
    Token,
    Trust,
    User,
)
from virga.store.db import Tx
from virga.store.identity import forget_role


def delete_user(tx: Tx, user_id: str) -> None:
    """A user with everything in identity that rests on it."""
    revoke.of_user(tx, user_id)
    tx.delete_where(Assignment, actor_kind="user", actor_id=user_id)
    tx.delete_where(Membership, user_id=user_id)
    tx.delete_where(ApplicationCredential, user_id=user_id)
    tx.delete_where(AccessRule, user_id=user_id)
    for trust in (*tx.find(Trust, trustor_user_id=user_id), *tx.find(Trust, trustee_user_id=user_id)):
        delete_trust(tx, trust.id)
    tx.delete_where(Credential, user_id=user_id)
    tx.delete(User, user_id)


def delete_trust(tx: Tx, trust_id: str) -> None:
    tx.delete_where(Token, trust_id=trust_id)
    tx.delete(Trust, trust_id)


def delete_project(tx: Tx, project_id: str) -> None:
    """A project with everything in identity that rests on it."""
    revoke.of_scope(tx, Target("project", project_id))
    tx.delete_where(Assignment, target_kind="project", target_id=project_id)
    tx.delete_where(ProjectEndpoint, project_id=project_id)
    tx.delete_where(ApplicationCredential, project_id=project_id)
    for trust in tx.find(Trust, project_id=project_id):
        delete_trust(tx, trust.id)
    tx.delete_where(Credential, project_id=project_id)
    tx.delete(Project, project_id)


def delete_domain(tx: Tx, domain: Project) -> None:
    """A disabled domain with all its users, groups, projects and roles. Raises Problem 403 while it is enabled."""
    if domain.enabled:
        raise Problem(403, "Cannot delete a domain that is enabled, please disable it first.")
    revoke.of_domain(tx, domain.id)
    for user in tx.find(User, domain_id=domain.id):
        delete_user(tx, user.id)
    for group in tx.find(Group, domain_id=domain.id):
        tx.delete_where(Membership, group_id=group.id)
        tx.delete_where(Assignment, actor_kind="group", actor_id=group.id)
    tx.delete_where(Group, domain_id=domain.id)
    for project in tx.find(Project, domain_id=domain.id):
        delete_project(tx, project.id)
    for role in tx.find(Role, domain_id=domain.id):
        forget_role(tx, role.id)
    tx.delete_where(Role, domain_id=domain.id)
    tx.delete_where(Assignment, target_kind="domain", target_id=domain.id)
    tx.delete(Project, domain.id)
