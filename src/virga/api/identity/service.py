"""The table of identity: every method and path with its handler."""
from __future__ import annotations

from http import HTTPStatus
from typing import Any

from virga.api.http import Service
from virga.api.identity import catalog, tokens, versions
from virga.domain.errors import Problem


def error_body(problem: Problem, request_id: str) -> dict[str, Any]:
    """`{"error": {code, title, message}}`."""
    return {"error": {"code": problem.status, "title": HTTPStatus(problem.status).phrase, "message": problem.message}}


def service() -> Service:
    identity = Service("identity", "/identity", error_body)
    for path, handler in (("/", versions.list_versions), ("/v3", versions.show_version)):
        identity.add("GET", path, handler, open=True)
    identity.add("POST", "/v3/auth/tokens", tokens.create_token, open=True)
    identity.table([
        ("GET", "/v3/auth/tokens", tokens.show_token),
        ("DELETE", "/v3/auth/tokens", tokens.revoke_token),
        ("GET", "/v3/auth/catalog", catalog.show_catalog),
    ])
    return identity
