"""The table of identity: every method and path with its handler.

Rules: a path stands here once, next to its noun's others; what needs no token stands in OPEN and nowhere else.
The grants' paths are made by rule, because users and groups have the same four verbs on projects, domains and
the system. What keystone has and this cloud has not answers 404 with a sentence, so that a client's user learns
more than "not found". HEAD is answered by GET's handler.
"""
from __future__ import annotations

from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from starlette.responses import Response

from virga.api.http import Call, Handler, Service
from virga.api.identity import (
    access_rules,
    application_credentials,
    assignments,
    catalog,
    credentials,
    domains,
    endpoint_groups,
    endpoints,
    groups,
    policies,
    projects,
    regions,
    roles,
    scopes,
    services,
    tokens,
    trusts,
    users,
    versions,
)
from virga.domain.errors import Problem

Row = tuple[str, str, Handler]


def error_body(problem: Problem, request_id: str) -> dict[str, Any]:
    """`{"error": {code, title, message}}`."""
    return {"error": {"code": problem.status, "title": HTTPStatus(problem.status).phrase, "message": problem.message}}


def not_offered(what: str) -> Handler:
    async def handler(call: Call) -> Response:
        raise Problem(404, f"{what} are not offered by this cloud.")

    return handler


OPEN: list[Row] = [
    ("GET", "/", versions.list_versions),
    ("GET", "/v3", versions.show_version),
    ("POST", "/v3/auth/tokens", tokens.create_token),
    ("POST", "/v3/users/{user_id}/password", users.change_password),
]

TABLE: list[Row] = [
    ("GET", "/v3/auth/tokens", tokens.show_token),
    ("DELETE", "/v3/auth/tokens", tokens.revoke_token),
    ("GET", "/v3/auth/catalog", catalog.show_catalog),
    ("GET", "/v3/auth/projects", scopes.list_projects),
    ("GET", "/v3/auth/domains", scopes.list_domains),
    ("GET", "/v3/auth/system", scopes.list_system),

    ("GET", "/v3/domains", domains.list_domains),
    ("POST", "/v3/domains", domains.create_domain),
    ("GET", "/v3/domains/{domain_id}", domains.show_domain),
    ("PATCH", "/v3/domains/{domain_id}", domains.update_domain),
    ("DELETE", "/v3/domains/{domain_id}", domains.delete_domain),

    ("GET", "/v3/projects", projects.list_projects),
    ("POST", "/v3/projects", projects.create_project),
    ("GET", "/v3/projects/{project_id}", projects.show_project),
    ("PATCH", "/v3/projects/{project_id}", projects.update_project),
    ("DELETE", "/v3/projects/{project_id}", projects.delete_project),
    ("GET", "/v3/projects/{project_id}/tags", projects.list_tags),
    ("PUT", "/v3/projects/{project_id}/tags", projects.set_tags),
    ("DELETE", "/v3/projects/{project_id}/tags", projects.delete_tags),
    ("GET", "/v3/projects/{project_id}/tags/{tag}", projects.show_tag),
    ("PUT", "/v3/projects/{project_id}/tags/{tag}", projects.add_tag),
    ("DELETE", "/v3/projects/{project_id}/tags/{tag}", projects.delete_tag),

    ("GET", "/v3/users", users.list_users),
    ("POST", "/v3/users", users.create_user),
    ("GET", "/v3/users/{user_id}", users.show_user),
    ("PATCH", "/v3/users/{user_id}", users.update_user),
    ("DELETE", "/v3/users/{user_id}", users.delete_user),
    ("GET", "/v3/users/{user_id}/groups", groups.list_user_groups),
    ("GET", "/v3/users/{user_id}/projects", users.list_user_projects),

    ("GET", "/v3/groups", groups.list_groups),
    ("POST", "/v3/groups", groups.create_group),
    ("GET", "/v3/groups/{group_id}", groups.show_group),
    ("PATCH", "/v3/groups/{group_id}", groups.update_group),
    ("DELETE", "/v3/groups/{group_id}", groups.delete_group),
    ("GET", "/v3/groups/{group_id}/users", groups.list_members),
    ("GET", "/v3/groups/{group_id}/users/{user_id}", groups.check_member),
    ("PUT", "/v3/groups/{group_id}/users/{user_id}", groups.add_member),
    ("DELETE", "/v3/groups/{group_id}/users/{user_id}", groups.remove_member),

    ("GET", "/v3/roles", roles.list_roles),
    ("POST", "/v3/roles", roles.create_role),
    ("GET", "/v3/roles/{role_id}", roles.show_role),
    ("PATCH", "/v3/roles/{role_id}", roles.update_role),
    ("DELETE", "/v3/roles/{role_id}", roles.delete_role),
    ("GET", "/v3/roles/{role_id}/implies", roles.list_implied),
    ("GET", "/v3/roles/{role_id}/implies/{implied_id}", roles.show_implied),
    ("PUT", "/v3/roles/{role_id}/implies/{implied_id}", roles.add_implied),
    ("DELETE", "/v3/roles/{role_id}/implies/{implied_id}", roles.remove_implied),
    ("GET", "/v3/role_inferences", roles.list_inferences),
    ("GET", "/v3/role_assignments", assignments.list_assignments),

    ("GET", "/v3/users/{user_id}/application_credentials", application_credentials.list_all),
    ("POST", "/v3/users/{user_id}/application_credentials", application_credentials.create),
    ("GET", "/v3/users/{user_id}/application_credentials/{credential_id}", application_credentials.show),
    ("DELETE", "/v3/users/{user_id}/application_credentials/{credential_id}", application_credentials.delete),

    ("GET", "/v3/users/{user_id}/access_rules", access_rules.list_rules),
    ("GET", "/v3/users/{user_id}/access_rules/{rule_id}", access_rules.show_rule),
    ("DELETE", "/v3/users/{user_id}/access_rules/{rule_id}", access_rules.delete_rule),

    ("GET", "/v3/OS-TRUST/trusts", trusts.list_trusts),
    ("POST", "/v3/OS-TRUST/trusts", trusts.create_trust),
    ("GET", "/v3/OS-TRUST/trusts/{trust_id}", trusts.show_trust),
    ("DELETE", "/v3/OS-TRUST/trusts/{trust_id}", trusts.delete_trust),
    ("GET", "/v3/OS-TRUST/trusts/{trust_id}/roles", trusts.list_trust_roles),
    ("GET", "/v3/OS-TRUST/trusts/{trust_id}/roles/{role_id}", trusts.show_trust_role),

    ("GET", "/v3/credentials", credentials.list_credentials),
    ("POST", "/v3/credentials", credentials.create_credential),
    ("GET", "/v3/credentials/{credential_id}", credentials.show_credential),
    ("PATCH", "/v3/credentials/{credential_id}", credentials.update_credential),
    ("DELETE", "/v3/credentials/{credential_id}", credentials.delete_credential),
    ("GET", "/v3/users/{user_id}/credentials/OS-EC2", credentials.list_ec2),
    ("POST", "/v3/users/{user_id}/credentials/OS-EC2", credentials.create_ec2),
    ("GET", "/v3/users/{user_id}/credentials/OS-EC2/{access}", credentials.show_ec2),
    ("DELETE", "/v3/users/{user_id}/credentials/OS-EC2/{access}", credentials.delete_ec2),

    ("GET", "/v3/regions", regions.list_regions),
    ("POST", "/v3/regions", regions.create_region),
    ("PUT", "/v3/regions/{region_id}", regions.create_region),
    ("GET", "/v3/regions/{region_id}", regions.show_region),
    ("PATCH", "/v3/regions/{region_id}", regions.update_region),
    ("DELETE", "/v3/regions/{region_id}", regions.delete_region),
    ("GET", "/v3/services", services.list_services),
    ("POST", "/v3/services", services.create_service),
    ("GET", "/v3/services/{service_id}", services.show_service),
    ("PATCH", "/v3/services/{service_id}", services.update_service),
    ("DELETE", "/v3/services/{service_id}", services.delete_service),
    ("GET", "/v3/endpoints", endpoints.list_endpoints),
    ("POST", "/v3/endpoints", endpoints.create_endpoint),
    ("GET", "/v3/endpoints/{endpoint_id}", endpoints.show_endpoint),
    ("PATCH", "/v3/endpoints/{endpoint_id}", endpoints.update_endpoint),
    ("DELETE", "/v3/endpoints/{endpoint_id}", endpoints.delete_endpoint),
    ("GET", "/v3/policies", policies.list_policies),
    ("POST", "/v3/policies", policies.create_policy),
    ("GET", "/v3/policies/{policy_id}", policies.show_policy),
    ("PATCH", "/v3/policies/{policy_id}", policies.update_policy),
    ("DELETE", "/v3/policies/{policy_id}", policies.delete_policy),
    ("GET", "/v3/OS-EP-FILTER/endpoint_groups", endpoint_groups.list_groups),
    ("POST", "/v3/OS-EP-FILTER/endpoint_groups", endpoint_groups.create_group),
    ("GET", "/v3/OS-EP-FILTER/endpoint_groups/{group_id}", endpoint_groups.show_group),
    ("PATCH", "/v3/OS-EP-FILTER/endpoint_groups/{group_id}", endpoint_groups.update_group),
    ("DELETE", "/v3/OS-EP-FILTER/endpoint_groups/{group_id}", endpoint_groups.delete_group),
    ("GET", "/v3/OS-EP-FILTER/endpoint_groups/{group_id}/endpoints", endpoint_groups.list_group_endpoints),
    ("GET", "/v3/OS-EP-FILTER/endpoint_groups/{group_id}/projects", endpoint_groups.list_projects),
    ("PUT", "/v3/OS-EP-FILTER/endpoint_groups/{group_id}/projects/{project_id}", endpoint_groups.add),
    ("GET", "/v3/OS-EP-FILTER/endpoint_groups/{group_id}/projects/{project_id}", endpoint_groups.check),
    ("DELETE", "/v3/OS-EP-FILTER/endpoint_groups/{group_id}/projects/{project_id}", endpoint_groups.remove),
    ("GET", "/v3/OS-EP-FILTER/projects/{project_id}/endpoint_groups", endpoint_groups.list_groups_of_project),
    ("GET", "/v3/OS-EP-FILTER/projects/{project_id}/endpoints", endpoint_groups.list_endpoints_of_project),
    ("GET", "/v3/OS-EP-FILTER/endpoints/{endpoint_id}/projects", endpoint_groups.list_projects),
    ("PUT", "/v3/OS-EP-FILTER/projects/{project_id}/endpoints/{endpoint_id}", endpoint_groups.add),
    ("GET", "/v3/OS-EP-FILTER/projects/{project_id}/endpoints/{endpoint_id}", endpoint_groups.check),
    ("DELETE", "/v3/OS-EP-FILTER/projects/{project_id}/endpoints/{endpoint_id}", endpoint_groups.remove),

]


# Collections of keystone's that this cloud has not: asked for, they say so.
MISSING = {
    "/v3/limits": "Unified limits", "/v3/limits/model": "Unified limits", "/v3/registered_limits": "Registered limits",
    "/v3/OS-OAUTH1/consumers": "OAuth consumers", "/v3/OS-FEDERATION/identity_providers": "Identity providers",
    "/v3/OS-FEDERATION/identity_providers/{provider_id}/protocols": "Federation protocols",
    "/v3/OS-FEDERATION/mappings": "Federation mappings", "/v3/OS-FEDERATION/service_providers": "Service providers",
    "/v3/domains/config/default": "Identity drivers of a domain's own",
    "/v3/domains/{domain_id}/config": "Identity drivers of a domain's own",
    "/v3/OS-SIMPLE-CERT/certificates": "Signed tokens",
}


def missing_paths() -> Iterator[Row]:
    for path, what in MISSING.items():
        for method in ("GET", "POST", "PUT"):
            yield method, path, not_offered(what)


def grant_paths() -> Iterator[Row]:
    """The same four verbs for users and groups on projects, domains and the system, and what is passed on below them."""
    for actor in ("users/{user_id}", "groups/{group_id}"):
        for place in ("projects/{project_id}", "domains/{domain_id}", "system"):
            path = f"/v3/{place}/{actor}/roles"
            yield "GET", path, assignments.list_grants
            yield from one_grant(path + "/{role_id}")
        for place in ("projects/{project_id}", "domains/{domain_id}"):
            path = f"/v3/OS-INHERIT/{place}/{actor}/roles"
            yield "GET", path + "/inherited_to_projects", assignments.list_grants
            yield from one_grant(path + "/{role_id}/inherited_to_projects")


def one_grant(path: str) -> Iterator[Row]:
    yield "PUT", path, assignments.grant
    yield "GET", path, assignments.check_grant
    yield "DELETE", path, assignments.take_away


def service() -> Service:
    identity = Service("identity", "/identity", error_body)
    for method, path, handler in OPEN:
        identity.add(method, path, handler, open=True)
    identity.table(TABLE)
    identity.table(grant_paths())
    identity.table(missing_paths())
    return identity
