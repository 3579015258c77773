"""What a token is worth: from the text in X-Auth-Token to a Caller, and the cache that makes it cheap.

Rules: roles are never stored with a token; they are computed from the assignments when the token is first seen,
and kept in memory for as long as `identity_epoch` is unchanged. Every request therefore costs one read of one
row, and a change of any role, user, project or domain counts from the very next request on, also when another
process made it.
"""
from __future__ import annotations

import msgspec

from virga.api.cloud import Cloud
from virga.api.http import Caller
from virga.api.identity.secret import digest
from virga.domain.identity import (
    AccessRule,
    ApplicationCredential,
    Project,
    Role,
    Target,
    Token,
    Trust,
    User,
    rule_matches,
)
from virga.store.db import Tx
from virga.store.identity import assigned_role_ids, epoch, expanded_roles, roles_on

SESSIONS_MAX = 20_000
TOKEN_CHARS_MAX = 256


class Session(msgspec.Struct):
    """A token with all it stands for right now. `scope` is the project or domain, None when unscoped or system."""

    token: Token
    user: User
    user_domain: Project
    scope: Project | None
    scope_domain: Project | None
    roles: list[Role]
    application_credential: ApplicationCredential | None = None
    access_rules: list[AccessRule] | None = None
    trust: Trust | None = None


class Sessions:
    """Sessions by token digest, all of one epoch."""

    def __init__(self) -> None:
        self.epoch = -1
        self.known: dict[str, tuple[float, Caller]] = {}


def load(tx: Tx, token: Token) -> Session | None:
    """What a token row is worth at `tx.now`; None when it is worth nothing."""
    if token.expires_at <= tx.now:
        return None
    user = tx.get(User, token.user_id)
    if user is None or not user.enabled:
        return None
    home = tx.get(Project, user.domain_id)
    if home is None or not home.enabled:
        return None
    session = Session(token, user, home, None, None, [])
    if token.scope_kind == "":
        return session
    if token.scope_kind != "system":
        scope = tx.get(Project, token.scope_id)
        if scope is None or not scope.enabled:
            return None
        above = scope if scope.is_domain else tx.get(Project, scope.domain_id)
        if above is None or not above.enabled:
            return None
        session.scope, session.scope_domain = scope, above
    target = Target(token.scope_kind, token.scope_id)
    if token.trust_id is not None:
        session.trust = live_trust(tx, token.trust_id)
        session.roles = trust_roles(tx, session.trust) if session.trust is not None else []
    elif token.application_credential_id is None:
        session.roles = roles_on(tx, user.id, target)
    else:
        credential = tx.get(ApplicationCredential, token.application_credential_id)
        if credential is None or (credential.expires_at is not None and credential.expires_at <= tx.now):
            return None
        session.application_credential = credential
        if credential.access_rule_ids is not None:
            session.access_rules = tx.find(AccessRule, id=credential.access_rule_ids)
        session.roles = credential_roles(tx, credential)
    return session if session.roles else None


def credential_roles(tx: Tx, credential: ApplicationCredential) -> list[Role]:
    """The roles of an application credential that its user still holds; what they imply comes with them."""
    target = Target("project", credential.project_id)
    held = {role.id for role in expanded_roles(tx, assigned_role_ids(tx, credential.user_id, target))}
    return expanded_roles(tx, held & set(credential.role_ids))


def live_trust(tx: Tx, trust_id: str) -> Trust | None:
    """A trust both of whose users are there and enabled, before its date; None otherwise."""
    trust = tx.get(Trust, trust_id)
    if trust is None or (trust.expires_at is not None and trust.expires_at <= tx.now):
        return None
    for user_id in (trust.trustor_user_id, trust.trustee_user_id):
        user = tx.get(User, user_id)
        home = None if user is None else tx.get(Project, user.domain_id)
        if user is None or not user.enabled or home is None or not home.enabled:
            return None
    return trust


def trust_roles(tx: Tx, trust: Trust) -> list[Role]:
    """The roles of a trust, as long as its trustor still holds every one of them; else none."""
    held = {role.id for role in roles_on(tx, trust.trustor_user_id, Target("project", trust.project_id))}
    return expanded_roles(tx, set(trust.role_ids)) if held >= set(trust.role_ids) else []


def find_session(tx: Tx, token: str) -> Session | None:
    """The session of a token text, straight from the rows."""
    if not token or len(token) > TOKEN_CHARS_MAX:
        return None
    row = tx.get(Token, digest(token))
    return None if row is None else load(tx, row)


def caller_of(session: Session) -> Caller:
    token, scope, rules = session.token, session.scope, session.access_rules

    def allows(service: str, method: str, path: str) -> bool:
        return any(rule.service == service and rule.method == method and rule_matches(rule.path, path)
                   for rule in rules or ())

    project = scope if token.scope_kind == "project" else None
    return Caller(
        user_id=session.user.id, user_name=session.user.name, user_domain_id=session.user.domain_id,
        project_id=project.id if project else None, project_name=project.name if project else None,
        project_domain_id=project.domain_id if project else None,
        domain_id=token.scope_id if token.scope_kind == "domain" else None,
        roles=frozenset(role.name for role in session.roles), token=session, system=token.scope_kind == "system",
        allows=None if rules is None else allows)


async def authenticate(cloud: Cloud, token: str) -> Caller | None:
    """Who holds this token, or None when it is unknown, expired or revoked. A known token costs one small read."""
    if not token or len(token) > TOKEN_CHARS_MAX:
        return None
    sessions: Sessions = cloud.extra.get("identity") or cloud.extra.setdefault("identity", Sessions())
    key = digest(token)

    def look(tx: Tx) -> Caller | None:
        now = epoch(tx)
        if now != sessions.epoch or len(sessions.known) > SESSIONS_MAX:
            sessions.epoch = now
            sessions.known.clear()
        hit = sessions.known.get(key)
        if hit is not None:
            return hit[1] if hit[0] > tx.now else None
        row = tx.get(Token, key)
        session = None if row is None else load(tx, row)
        if session is None:
            return None
        caller = caller_of(session)
        ends = session.token.expires_at
        for limit in (session.application_credential, session.trust):
            if limit is not None and limit.expires_at is not None:
                ends = min(ends, limit.expires_at)
        sessions.known[key] = (ends, caller)
        return caller

    return await cloud.db.read(look)
