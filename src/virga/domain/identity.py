"""Domains, projects, users, groups, roles, assignments, tokens, application credentials and the service
catalog: the rows of identity.

Rules: ids are 32 hex digits (a few are words: the first domain is `default`), as identity's clients expect. A
domain is a project whose `is_domain` is set and whose `domain_id` is ''; '' also stands for "no domain" of a
global role, so that one UNIQUE constraint covers both. An assignment names an actor (user or group), a target
(project, domain, system) and a role; an inherited one counts for what lies below its target and not for the
target. Secrets are never stored: passwords and application secrets as argon2 strings, tokens as their SHA-256.
Only the identity room of api/ writes these rows; whoever writes one that could change what a token is worth
bumps `IdentityEpoch`.
"""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

import msgspec

from virga.domain.row import Row

DEFAULT_DOMAIN_ID = "default"
RULE_PARTS_MAX = 64  # a longer path meets no access rule
SYSTEM = "system"  # the id of the one system target

ActorKind = Literal["user", "group"]
TargetKind = Literal["project", "domain", "system"]


class Project(Row):
    """A project or (`is_domain`) a domain. `parent_id` is '' for a domain, else a project or the domain."""

    __table__: ClassVar[str] = "projects"
    id: str
    name: str
    domain_id: str
    parent_id: str
    is_domain: bool
    description: str
    enabled: bool
    tags: list[str]
    options: dict[str, Any]
    extra: dict[str, Any]
    created_at: float


class User(Row):
    """`password_hash` is None for a user that cannot log in by password. `failures` counts wrong passwords since the last right one, the newest at
    `failed_at`; `old_hashes` are those of earlier passwords, newest first."""

    __table__: ClassVar[str] = "users"
    id: str
    name: str
    domain_id: str
    enabled: bool
    password_hash: str | None
    password_changed_at: float | None
    default_project_id: str | None
    description: str | None
    options: dict[str, Any]
    extra: dict[str, Any]
    created_at: float
    failures: int = 0
    failed_at: float | None = None
    old_hashes: list[str] = []


class Group(Row):
    __table__: ClassVar[str] = "user_groups"
    id: str
    name: str
    domain_id: str
    description: str
    extra: dict[str, Any]
    created_at: float


class Membership(Row):
    __table__: ClassVar[str] = "memberships"
    __key__: ClassVar[tuple[str, ...]] = ("group_id", "user_id")
    group_id: str
    user_id: str


class Role(Row):
    """`domain_id` is '' for a global role; a domain's own role never shows in a token, only what it implies."""

    __table__: ClassVar[str] = "roles"
    id: str
    name: str
    domain_id: str
    description: str | None
    options: dict[str, Any]
    extra: dict[str, Any]
    created_at: float


class Implication(Row):
    """Who holds `prior_id` holds `implied_id` too."""

    __table__: ClassVar[str] = "role_implications"
    __key__: ClassVar[tuple[str, ...]] = ("prior_id", "implied_id")
    prior_id: str
    implied_id: str


class Assignment(Row):
    __table__: ClassVar[str] = "role_assignments"
    __key__: ClassVar[tuple[str, ...]] = ("actor_kind", "actor_id", "target_kind", "target_id", "role_id", "inherited")
    actor_kind: ActorKind
    actor_id: str
    target_kind: TargetKind
    target_id: str
    role_id: str
    inherited: bool


class Token(Row):
    """One token alive. `digest` is the SHA-256 of what the client holds; `scope_kind` '' is unscoped."""

    __table__: ClassVar[str] = "tokens"
    __key__: ClassVar[tuple[str, ...]] = ("digest",)
    digest: str
    user_id: str
    scope_kind: Literal["", "project", "domain", "system"]
    scope_id: str
    methods: list[str]
    audit_ids: list[str]
    application_credential_id: str | None
    trust_id: str | None
    issued_at: float
    expires_at: float


class ApplicationCredential(Row):
    """A secret of a user's, good for some of its roles on one project. Not `unrestricted`: cannot make others.

    `access_rule_ids` None lets it do all its roles allow; otherwise only requests that match one of the rules.
    """

    __table__: ClassVar[str] = "application_credentials"
    id: str
    name: str
    user_id: str
    project_id: str
    description: str | None
    secret_hash: str
    role_ids: list[str]
    unrestricted: bool
    access_rule_ids: list[str] | None
    expires_at: float | None
    created_at: float


class AccessRule(Row):
    """Requests an application credential may make: catalog type of the service, HTTP method, path with wildcards."""

    __table__: ClassVar[str] = "access_rules"
    id: str
    user_id: str
    service: str
    method: str
    path: str


class Trust(Row):
    """A user (trustor) lets another (trustee) use some of its roles on a project; `impersonation`: under its own name."""

    __table__: ClassVar[str] = "trusts"
    id: str
    trustor_user_id: str
    trustee_user_id: str
    project_id: str
    impersonation: bool
    role_ids: list[str]
    remaining_uses: int | None
    expires_at: float | None
    created_at: float


class Region(Row):
    __table__: ClassVar[str] = "catalog_regions"
    id: str
    parent_region_id: str | None
    description: str
    extra: dict[str, Any]


class CatalogService(Row):
    __table__: ClassVar[str] = "catalog_services"
    id: str
    type: str
    name: str
    description: str | None
    enabled: bool
    extra: dict[str, Any]


class Endpoint(Row):
    """`url` may hold $(base_url)s (scheme and host the client used), $(project_id)s, $(tenant_id)s and $(user_id)s."""

    __table__: ClassVar[str] = "catalog_endpoints"
    id: str
    service_id: str
    interface: Literal["public", "internal", "admin"]
    region_id: str | None
    url: str
    enabled: bool
    extra: dict[str, Any]


class EndpointGroup(Row):
    """Endpoints chosen by what they are: `filters` on service_id, region_id, interface, enabled."""

    __table__: ClassVar[str] = "endpoint_groups"
    id: str
    name: str
    description: str | None
    filters: dict[str, Any]


class ProjectEndpoint(Row):
    """A project whose catalog is narrowed holds rows like this: `kind` endpoint or group, `id` which."""

    __table__: ClassVar[str] = "project_endpoints"
    __key__: ClassVar[tuple[str, ...]] = ("project_id", "kind", "id")
    project_id: str
    kind: Literal["endpoint", "group"]
    id: str


class Credential(Row):
    """A stored secret of a user's for another protocol. `type` ec2: `id` is the SHA-256 of the access key."""

    __table__: ClassVar[str] = "credentials"
    id: str
    type: str
    user_id: str
    project_id: str | None
    blob: str
    extra: dict[str, Any]
    created_at: float


class PolicyDocument(Row):
    """A policy text kept for others to fetch; Virga itself does not read it."""

    __table__: ClassVar[str] = "policies"
    id: str
    type: str
    blob: str
    extra: dict[str, Any]


class IdentityEpoch(Row):
    """One row (`id` 1): counts every change after which a cached token answer may be wrong."""

    __table__: ClassVar[str] = "identity_epoch"
    id: int
    value: int


class Target(msgspec.Struct, frozen=True):
    """What a role is held on."""

    kind: TargetKind
    id: str


def rule_matches(pattern: str, path: str) -> bool:
    """Whether a path meets an access rule's: `*` and `{name}` stand for one part, `**` for any number of them."""
    parts = path.strip("/").split("/")
    return len(parts) <= RULE_PARTS_MAX and _parts_match(pattern.strip("/").split("/"), parts)


def _parts_match(pattern: list[str], parts: list[str]) -> bool:
    if not pattern:
        return not parts
    first, rest = pattern[0], pattern[1:]
    if first == "**":
        return not rest or any(_parts_match(rest, parts[start:]) for start in range(len(parts) + 1))
    if not parts:
        return False
    one = first == "*" or (first.startswith("{") and first.endswith("}")) or first == parts[0]
    return one and _parts_match(rest, parts[1:])


def implied_by(role_ids: Iterable[str], implications: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """Every role held through `role_ids`, each with the role it comes from (itself when held directly).

    Cycles are harmless.
    """
    origin = {role_id: role_id for role_id in role_ids}
    waiting = list(origin)
    while waiting:
        prior = waiting.pop()
        for implied in implications.get(prior, ()):
            if implied not in origin:
                origin[implied] = prior
                waiting.append(implied)
    return origin


def would_cycle(prior_id: str, implied_id: str, implications: Mapping[str, Iterable[str]]) -> bool:
    """Whether making `prior_id` imply `implied_id` would make a role imply itself."""
    return prior_id in implied_by([implied_id], implications)
