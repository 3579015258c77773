"""Tokens: proving who one is, asking for a scope, and looking at or ending a token.

Owns: POST, GET, HEAD and DELETE of /auth/tokens. Methods: password, token, application_credential; scopes:
project, domain, system, unscoped, or none, which takes the user's default project when it may.
Rules: a token is 32 random bytes in hex, of which only the SHA-256 is stored. Whatever is wrong with user,
password, scope or roles is the same 401, so that nothing can be probed; only a malformed body is a 400. A token
got by a token never outlives it. Expired rows are swept whenever a new one is written.
"""
from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from starlette.responses import Response

from virga.api.http import Call, reply
from virga.api.identity import lockout, reach
from virga.api.identity.catalog import catalog
from virga.api.identity.secret import PASSWORD_BYTES_MAX, digest, verify
from virga.api.identity.session import Session, credential_roles, find_session, live_trust, load, trust_roles
from virga.api.identity.shape import flag, incoming, stamp
from virga.domain.errors import Problem
from virga.domain.identity import SYSTEM, ApplicationCredential, Project, Target, Token, Trust, User
from virga.store.db import Op, Tx
from virga.store.identity import roles_on, touch

TOKEN_BYTES = 32
AUDIT_BYTES = 11
METHODS_MAX = 8
Secret = Annotated[str, Meta(max_length=PASSWORD_BYTES_MAX)]
Short = Annotated[str, Meta(max_length=255)]


class DomainRef(msgspec.Struct):
    id: Short | None = None
    name: Short | None = None


class UserRef(msgspec.Struct):
    id: Short | None = None
    name: Short | None = None
    domain: DomainRef | None = None


class PasswordUser(UserRef):
    password: Secret = ""


class PasswordMethod(msgspec.Struct):
    user: PasswordUser


class TokenMethod(msgspec.Struct):
    id: Secret


class CredentialMethod(msgspec.Struct):
    secret: Secret
    id: Short | None = None
    name: Short | None = None
    user: UserRef | None = None


class Identity(msgspec.Struct):
    methods: Annotated[list[Short], Meta(min_length=1, max_length=METHODS_MAX)]
    password: PasswordMethod | None = None
    token: TokenMethod | None = None
    application_credential: CredentialMethod | None = None


class ProjectRef(msgspec.Struct):
    id: Short | None = None
    name: Short | None = None
    domain: DomainRef | None = None


class SystemRef(msgspec.Struct):
    all: Literal[True]


class TrustRef(msgspec.Struct):
    id: Short


class ScopeBody(msgspec.Struct):
    project: ProjectRef | None = None
    domain: DomainRef | None = None
    system: SystemRef | None = None
    unscoped: dict[str, Any] | None = None
    trust: TrustRef | None = msgspec.field(default=None, name="OS-TRUST:trust")


class Auth(msgspec.Struct):
    identity: Identity
    scope: ScopeBody | Literal["unscoped"] | None = None


class Proof(msgspec.Struct):
    """Who somebody was shown to be, by which methods, and what that limits."""

    user_id: str
    methods: list[str]
    audit_ids: list[str] = []
    expires_at: float | None = None
    credential: ApplicationCredential | None = None
    trust: Trust | None = None


REFUSED = "The request you have made requires authentication."


def refused(why: str = "") -> Problem:
    return Problem(401, f"{REFUSED} {why}".strip())


# who ----------------------------------------------------------------------------------------------------------------
def find_user(tx: Tx, ref: UserRef) -> User | None:
    """The user a reference names, by id or by name and domain."""
    if ref.id is not None:
        return tx.get(User, ref.id)
    domain = find_domain(tx, ref.domain)
    return None if domain is None else tx.one(User, name=ref.name, domain_id=domain.id)


def find_domain(tx: Tx, ref: DomainRef | None) -> Project | None:
    if ref is None:
        return None
    if ref.id is not None:
        row = tx.get(Project, ref.id)
        return row if row is not None and row.is_domain else None
    return tx.one(Project, name=ref.name, domain_id="", is_domain=True)


def check_user_ref(ref: UserRef, where: str) -> None:
    if ref.id is None and ref.name is None:
        raise Problem(400, f"Invalid input for field {where}: expecting to find id or name.")
    if ref.id is None and (ref.domain is None or (ref.domain.id is None and ref.domain.name is None)):
        raise Problem(400, f"Invalid input for field {where}: a user's name needs its domain's id or name.")


async def by_password(call: Call, method: PasswordMethod) -> Proof:
    ref = method.user
    check_user_ref(ref, "auth.identity.password.user")
    user = await call.cloud.db.read(lambda tx: find_user(tx, ref))
    # The hash is computed for unknown users too: the answer's time must not tell who exists.
    right = await verify(call.cloud.env, call.cloud.config, user.password_hash if user else None, ref.password)
    if user is None or not await lockout.passes(call.cloud, user, right):
        raise refused()
    return Proof(user.id, ["password"])


async def by_token(call: Call, method: TokenMethod) -> Proof:
    session = await call.cloud.db.read(lambda tx: find_session(tx, method.id))
    if session is None:
        raise Problem(404, "Could not find token: it is unknown, expired or revoked.")  # 404 and not 401: as Keystone
    if session.application_credential is not None or session.trust is not None:
        raise Problem(403, "A token made with an application credential or a trust cannot be used to get another one.")
    token = session.token
    return Proof(token.user_id, ["token", *token.methods], token.audit_ids[-1:], token.expires_at)


async def by_credential(call: Call, method: CredentialMethod) -> Proof:
    where = "auth.identity.application_credential"
    if method.id is None:
        if method.name is None or method.user is None:
            raise Problem(400, f"Invalid input for field {where}: expecting to find id, or name and user.")
        check_user_ref(method.user, f"{where}.user")

    def find(tx: Tx) -> ApplicationCredential | None:
        if method.id is not None:
            return tx.get(ApplicationCredential, method.id)
        user = find_user(tx, method.user) if method.user is not None else None
        return None if user is None else tx.one(ApplicationCredential, user_id=user.id, name=method.name)

    found = await call.cloud.db.read(find)
    right = await verify(call.cloud.env, call.cloud.config, found.secret_hash if found else None, method.secret)
    if found is None or not right:
        raise refused()
    return Proof(found.user_id, ["application_credential"], [], found.expires_at, found)


async def prove(call: Call, identity: Identity) -> Proof:
    """Check every method asked for; they must all show the same user."""
    proof: Proof | None = None
    for name in dict.fromkeys(identity.methods):
        section = {"password": identity.password, "token": identity.token,
                   "application_credential": identity.application_credential}
        if name not in section:
            raise refused(f"The method {name!r} is not offered; there are {', '.join(section)}.")
        if section[name] is None:
            raise Problem(400, f"Invalid input for field auth.identity: expecting to find {name}.")
        if name == "password" and identity.password is not None:
            one = await by_password(call, identity.password)
        elif name == "token" and identity.token is not None:
            one = await by_token(call, identity.token)
        else:
            assert identity.application_credential is not None
            one = await by_credential(call, identity.application_credential)
        if proof is None:
            proof = one
        elif proof.user_id != one.user_id:
            raise refused()
        else:
            ends = [at for at in (proof.expires_at, one.expires_at) if at is not None]
            proof = Proof(proof.user_id, [*proof.methods, *one.methods], proof.audit_ids or one.audit_ids,
                          min(ends) if ends else None, proof.credential or one.credential)
    assert proof is not None
    return proof


# for what -----------------------------------------------------------------------------------------------------------
def check_scope(scope: ScopeBody | Literal["unscoped"] | None) -> None:
    """Raises Problem 400 for a scope that says nothing or too much."""
    if scope is None or scope == "unscoped":
        return
    named = [name for name in ("project", "domain", "system", "unscoped", "trust") if getattr(scope, name) is not None]
    if len(named) != 1:
        raise Problem(400, "Invalid input for field auth.scope: expecting one of project, domain, system, "
                           "unscoped, OS-TRUST:trust.")
    for name, ref in (("project", scope.project), ("domain", scope.domain)):
        if ref is not None and ref.id is None and ref.name is None:
            raise Problem(400, f"Invalid input for field auth.scope.{name}: expecting to find id or name.")
    project = scope.project
    if project is not None and project.id is None and (
            project.domain is None or (project.domain.id is None and project.domain.name is None)):
        raise Problem(
            400, "Invalid input for field auth.scope.project: a project's name needs its domain's id or name.")


NO_ACCESS = "The user has no role on the scope asked for, or there is no such scope."


def choose_scope(tx: Tx, user: User, scope: ScopeBody | Literal["unscoped"] | None) -> Target | None:
    """The target of the new token, None for unscoped. Raises Problem 401."""
    if scope == "unscoped" or (isinstance(scope, ScopeBody) and scope.unscoped is not None):
        return None
    if scope is None:
        preferred = tx.get(Project, user.default_project_id) if user.default_project_id else None
        if preferred is None or preferred.is_domain or not preferred.enabled:
            return None
        target = Target("project", preferred.id)
        return target if roles_on(tx, user.id, target) else None
    if scope.system is not None:
        return Target("system", SYSTEM)
    if scope.domain is not None:
        domain = find_domain(tx, scope.domain)
        if domain is None:
            raise refused(NO_ACCESS)
        return Target("domain", domain.id)
    assert scope.project is not None
    if scope.project.id is not None:
        project = tx.get(Project, scope.project.id)
    else:
        above = find_domain(tx, scope.project.domain)
        project = None if above is None else tx.one(Project, name=scope.project.name, domain_id=above.id)
    if project is None or project.is_domain:
        raise refused(NO_ACCESS)
    return Target("project", project.id)


def use_trust(tx: Tx, proof: Proof, trust_id: str) -> tuple[Proof, Target]:
    """Who the trustee becomes and where. Counts one use. Raises Problem 401, and 403 for somebody who is not the trustee."""
    trust = live_trust(tx, trust_id)
    if trust is None or not trust_roles(tx, trust):
        raise refused("The trust is not there, is over, or its trustor no longer holds the roles it gives.")
    if trust.trustee_user_id != proof.user_id:
        raise Problem(403, "You are not the trustee of this trust.")
    if trust.remaining_uses is not None:
        if trust.remaining_uses < 1:
            raise refused("The trust has no uses left.")
        tx.update(Trust, trust.id, remaining_uses=trust.remaining_uses - 1)
    ends = [at for at in (proof.expires_at, trust.expires_at) if at is not None]
    user_id = trust.trustor_user_id if trust.impersonation else trust.trustee_user_id
    return (Proof(user_id, proof.methods, proof.audit_ids, min(ends) if ends else None, None, trust),
            Target("project", trust.project_id))


def issue(tx: Tx, proof: Proof, target: Target | None, lifetime_s: float) -> tuple[str, Session]:
    """Write a new token row; returns the token's text and what it is worth. Raises Problem 401 when that is nothing."""
    tx.delete_where(Token, expires_at=Op("<", tx.now))
    text = tx.token_hex(TOKEN_BYTES)
    # Whole seconds, as clients expect of identity; never in the future.
    issued_at = float(int(tx.now))
    expires_at = issued_at + lifetime_s
    if proof.expires_at is not None:
        expires_at = min(expires_at, proof.expires_at)
    methods = list(dict.fromkeys(proof.methods))
    row = Token(digest(text), proof.user_id, target.kind if target else "", target.id if target else "", methods,
                [tx.token_hex(AUDIT_BYTES), *proof.audit_ids], proof.credential.id if proof.credential else None,
                proof.trust.id if proof.trust else None, issued_at, expires_at)
    session = load(tx, row)
    if session is None:
        raise refused(NO_ACCESS if target is not None else "")
    tx.insert(row)
    return text, session


async def create_token(call: Call) -> Response:
    auth, _ = await incoming(call, "auth", Auth)
    check_scope(auth.scope)
    proof = await prove(call, auth.identity)
    credential = proof.credential
    if credential is not None and auth.scope is not None:
        raise refused("An application credential has its own scope and takes no other.")
    with_catalog = call.arg("nocatalog") is None
    base_url = call.base_url()
    lifetime_s = call.cloud.config.token_lifetime_s

    def closure(tx: Tx) -> tuple[str, dict[str, Any]]:
        user = tx.get(User, proof.user_id)
        if user is None:
            raise refused()
        if credential is not None:
            if not credential_roles(tx, credential):
                raise refused("The user no longer holds the roles of this application credential.")
            target: Target | None = Target("project", credential.project_id)
        elif isinstance(auth.scope, ScopeBody) and auth.scope.trust is not None:
            trusted, target = use_trust(tx, proof, auth.scope.trust.id)
            text, session = issue(tx, trusted, target, lifetime_s)
            return text, token_view(tx, session, base_url, with_catalog)
        else:
            target = choose_scope(tx, user, auth.scope)
        text, session = issue(tx, proof, target, lifetime_s)
        return text, token_view(tx, session, base_url, with_catalog)

    text, view = await call.cloud.db.run(closure)
    return reply(201, {"token": view}, {"X-Subject-Token": text, "Vary": "X-Auth-Token"})


# what it says -------------------------------------------------------------------------------------------------------
def token_view(tx: Tx, session: Session, base_url: str, with_catalog: bool) -> dict[str, Any]:
    """The token as the API shows it."""
    token, user = session.token, session.user
    view: dict[str, Any] = {
        "methods": token.methods,
        "user": {"id": user.id, "name": user.name, "password_expires_at": None,
                 "domain": {"id": session.user_domain.id, "name": session.user_domain.name}},
        "audit_ids": token.audit_ids,
        "expires_at": stamp(token.expires_at),
        "issued_at": stamp(token.issued_at),
    }
    if session.scope is not None and session.scope_domain is not None:
        scope, above = session.scope, session.scope_domain
        if token.scope_kind == "project":
            view["project"] = {"id": scope.id, "name": scope.name, "domain": {"id": above.id, "name": above.name}}
            view["is_domain"] = False
        else:
            view["domain"] = {"id": scope.id, "name": scope.name}
    elif token.scope_kind == "system":
        view["system"] = {"all": True}
    if token.scope_kind:
        view["roles"] = [{"id": role.id, "name": role.name} for role in session.roles]
        if with_catalog:
            view["catalog"] = catalog(tx, base_url, session)
    if session.application_credential is not None:
        credential = session.application_credential
        view["application_credential"] = {
            "id": credential.id, "name": credential.name, "restricted": not credential.unrestricted}
        if session.access_rules is not None:
            view["application_credential"]["access_rules"] = [
                {"id": rule.id, "service": rule.service, "method": rule.method, "path": rule.path}
                for rule in session.access_rules]
    if session.trust is not None:
        trust = session.trust
        view["OS-TRUST:trust"] = {
            "id": trust.id, "impersonation": trust.impersonation, "trustor_user": {"id": trust.trustor_user_id},
            "trustee_user": {"id": trust.trustee_user_id}}
    return view


def subject(tx: Tx, call: Call, action: str, others: bool) -> Session:
    """The session of X-Subject-Token. Raises Problem 404 when it is worth nothing, 403 when it is another's."""
    session = find_session(tx, call.header("x-subject-token") or "")
    if session is None:
        raise Problem(404, "Could not find the token of the header X-Subject-Token.")
    reach.require(others or session.user.id == call.caller.user_id, action)
    return session


async def show_token(call: Call) -> Response:
    others = reach.sees_all(call.caller) or "service" in call.caller.roles
    with_catalog = not flag(call, "nocatalog")

    def closure(tx: Tx) -> dict[str, Any]:
        return token_view(tx, subject(tx, call, "validate_token", others), call.base_url(), with_catalog)

    view = await call.cloud.db.read(closure)
    text = call.header("x-subject-token") or ""
    return reply(200, {"token": view}, {"X-Subject-Token": text, "Vary": "X-Auth-Token"})


async def revoke_token(call: Call) -> Response:
    def closure(tx: Tx) -> None:
        session = subject(tx, call, "revoke_token", call.caller.is_admin)
        tx.delete(Token, session.token.digest)
        touch(tx)

    await call.cloud.db.run(closure)
    return reply(204)
