"""Ending tokens before their time. Called inside the transaction that makes them worthless, and nowhere else.

Rules: a token dies with its user, its user's password, its scope, its application credential, the domain above,
and with the removal of a role it may rest on; enabling again does not bring it back.
"""
from __future__ import annotations

from virga.domain.identity import Assignment, Membership, Project, Target, Token, User
from virga.store.db import Tx
from virga.store.identity import subtree


def of_user(tx: Tx, user_id: str) -> None:
    tx.delete_where(Token, user_id=user_id)


def of_scope(tx: Tx, target: Target) -> None:
    tx.delete_where(Token, scope_kind=target.kind, scope_id=target.id)


def of_domain(tx: Tx, domain_id: str) -> None:
    """Everything that stands on a domain: its own scope, its projects', its users'."""
    of_scope(tx, Target("domain", domain_id))
    for project in tx.find(Project, domain_id=domain_id):
        of_scope(tx, Target("project", project.id))
    for user in tx.find(User, domain_id=domain_id):
        of_user(tx, user.id)


def of_assignment(tx: Tx, gone: Assignment) -> None:
    """Tokens that may rest on an assignment which was removed."""
    users = [gone.actor_id] if gone.actor_kind == "user" else [
        member.user_id for member in tx.find(Membership, group_id=gone.actor_id)]
    scopes = [Target(gone.target_kind, gone.target_id)]
    if gone.inherited:
        scopes = [Target("project", project.id) for project in subtree(tx, gone.target_id)]
    for user_id in users:
        for scope in scopes:
            tx.delete_where(Token, user_id=user_id, scope_kind=scope.kind, scope_id=scope.id)
