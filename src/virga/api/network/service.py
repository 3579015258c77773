"""The table of the network API v2.0: every noun mounted below /network, and the shape of its errors.

Errors name Neutron's types, because clients look at them; a Problem without one gets the type its status stands for.
"""
from __future__ import annotations

from typing import Any

from virga.api.http import Service
from virga.api.network import agents, bindings, extensions, quotas, tags
from virga.api.network.floatingips import FLOATINGIPS
from virga.api.network.noun import Noun
from virga.api.network.ports import PORTS
from virga.api.network.rbac import RBAC
from virga.api.network.routers import ROUTERS
from virga.api.network.security_groups import ADDRESS_GROUPS, GROUPS, RULES
from virga.api.network.subnetpools import POOLS, SCOPES
from virga.api.network.subnets import NETWORKS, Subnets
from virga.domain.errors import Problem

# error types where a Problem names none, by status
TYPES = {400: "HTTPBadRequest", 401: "Unauthorized", 403: "PolicyNotAuthorized", 404: "HTTPNotFound", 405: "HTTPMethodNotAllowed",
         409: "Conflict", 412: "RevisionNumberConstraintFailed", 413: "HTTPRequestEntityTooLarge", 500: "HTTPInternalServerError",
         503: "ServiceUnavailable"}


def error_body(problem: Problem, request_id: str) -> dict[str, Any]:
    kind = problem.kind or TYPES.get(problem.status, "HTTPException")
    return {"NeutronError": {"type": kind, "message": problem.message, "detail": ""}}


def service() -> Service:
    """The whole API below /network."""
    found = Service("network", "/network", error_body)
    nouns: list[Noun[Any]] = [NETWORKS, Subnets(), POOLS, SCOPES, PORTS, GROUPS, RULES, ADDRESS_GROUPS, ROUTERS, FLOATINGIPS, RBAC]
    for noun in nouns:
        noun.mount(found)
    tags.mount(found, nouns)
    bindings.mount(found)
    quotas.mount(found)
    agents.mount(found)
    extensions.mount(found, nouns)
    return found

