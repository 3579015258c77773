"""The queries of identity that walk more than one table: what roles somebody holds where, and the epoch.

Rules: inherited assignments on a domain or project count for the projects below it; group assignments count for
the group's members; implied roles are added last; a domain's own roles are dropped after they have been
expanded. Everything here is asked only when a token is issued or first seen after a change: the front door
caches the answer per token for as long as `epoch` stays the same.
"""
from __future__ import annotations

from virga.domain.identity import ActorKind, Assignment, Implication, Project, Role, Target, implied_by
from virga.store.db import Tx

DEPTH_MAX = 5  # projects below each other, the domain counted; upstream's max_project_tree_depth


def epoch(tx: Tx) -> int:
    """The number of identity changes so far; equal numbers mean that what tokens are worth is unchanged."""
    return int(tx.sql("SELECT value FROM identity_epoch WHERE id = 1")[0][0])


def touch(tx: Tx) -> None:
    """Note that something changed that cached token answers may rest on."""
    tx.sql("UPDATE identity_epoch SET value = value + 1 WHERE id = 1")


def ancestors(tx: Tx, project: Project) -> list[Project]:
    """The projects above, nearest first, the domain last."""
    found: list[Project] = []
    here = project
    while here.parent_id and len(found) <= DEPTH_MAX + 1:
        above = tx.get(Project, here.parent_id)
        if above is None:
            break
        found.append(above)
        here = above
    return found


def implications(tx: Tx) -> dict[str, list[str]]:
    """Every prior role id with the role ids it implies directly."""
    table: dict[str, list[str]] = {}
    for row in tx.find(Implication):
        table.setdefault(row.prior_id, []).append(row.implied_id)
    return table


def assigned_role_ids(tx: Tx, user_id: str, target: Target) -> set[str]:
    """Role ids held on a target directly, through groups, or inherited from above; without implied ones."""
    places = [(target.kind, target.id, 0)]
    if target.kind == "project":
        project = tx.get(Project, target.id)
        if project is not None:
            places += [("domain" if above.is_domain else "project", above.id, 1) for above in ancestors(tx, project)]
    found: set[str] = set()
    for kind, place_id, inherited in places:
        found.update(role_id for (role_id,) in tx.sql(
            "SELECT role_id FROM role_assignments WHERE target_kind = ? AND target_id = ? AND inherited = ? AND ("
            "(actor_kind = 'user' AND actor_id = ?) OR (actor_kind = 'group' AND actor_id IN "
            "(SELECT group_id FROM memberships WHERE user_id = ?)))",
            (kind, place_id, inherited, user_id, user_id)))
    return found


def expanded_roles(tx: Tx, role_ids: set[str]) -> list[Role]:
    """The global roles behind role ids, implied ones included, by name."""
    if not role_ids:
        return []
    everything = implied_by(role_ids, implications(tx))
    return [role for role in tx.find(Role, id=list(everything), sort=[("name", False)]) if role.domain_id == ""]


def roles_on(tx: Tx, user_id: str, target: Target) -> list[Role]:
    """The roles a token of this user for this target carries; empty means no token."""
    return expanded_roles(tx, assigned_role_ids(tx, user_id, target))


def projects_of(tx: Tx, user_id: str) -> list[Project]:
    """The enabled projects on which the user holds any role, by name; projects acting as domains are left out."""
    direct = {project_id for (project_id,) in tx.sql(
        f"SELECT target_id FROM role_assignments WHERE target_kind = 'project' AND inherited = 0 AND {_ACTOR}",
        (user_id, user_id))}
    roots = [place_id for (place_id,) in tx.sql(
        f"SELECT target_id FROM role_assignments WHERE inherited = 1 AND {_ACTOR}", (user_id, user_id))]
    for root in roots:
        direct.update(project.id for project in subtree(tx, root))
    found = tx.find(Project, id=list(direct), is_domain=False, enabled=True, sort=[("name", False), ("id", False)])
    open_domains = {domain.id for domain in tx.find(Project, is_domain=True, enabled=True)}
    return [project for project in found if project.domain_id in open_domains]


def domains_of(tx: Tx, user_id: str) -> list[Project]:
    """The enabled domains on which the user holds any role, by name."""
    ids = [place_id for (place_id,) in tx.sql(
        f"SELECT target_id FROM role_assignments WHERE target_kind = 'domain' AND inherited = 0 AND {_ACTOR}",
        (user_id, user_id))]
    return tx.find(Project, id=ids, is_domain=True, enabled=True, sort=[("name", False), ("id", False)])


def subtree(tx: Tx, root_id: str) -> list[Project]:
    """Everything below a project or domain, nearest first; the root itself is not in it."""
    found: list[Project] = []
    level = [root_id]
    while level and len(found) < 100_000:
        below = tx.find(Project, parent_id=level, sort=[("name", False)])
        found += below
        level = [project.id for project in below]
    return found


def holds_admin(tx: Tx, actor_kind: ActorKind, actor_id: str) -> bool:
    """Whether a user (also through groups) or a group holds the role admin anywhere."""
    if actor_kind == "user":
        ids = {role_id for (role_id,) in tx.sql(
            f"SELECT role_id FROM role_assignments WHERE {_ACTOR}", (actor_id, actor_id))}
    else:
        ids = {row.role_id for row in tx.find(Assignment, actor_kind="group", actor_id=actor_id)}
    return any(role.name == "admin" for role in expanded_roles(tx, ids))


def forget_role(tx: Tx, role_id: str) -> None:
    """Remove what hangs on a role that goes away: assignments and implications."""
    tx.sql("DELETE FROM role_assignments WHERE role_id = ?", (role_id,))
    tx.sql("DELETE FROM role_implications WHERE prior_id = ? OR implied_id = ?", (role_id, role_id))


_ACTOR = (
    "((actor_kind = 'user' AND actor_id = ?) OR (actor_kind = 'group' AND actor_id IN "
    "(SELECT group_id FROM memberships WHERE user_id = ?)))"
)
