"""What the caller may ask a token for: its projects, its domains, the system. Any token will do, an unscoped
one most of all.
"""
from __future__ import annotations

from starlette.responses import Response

from virga.api.http import Call, reply
from virga.api.identity.domains import view as domain_view
from virga.api.identity.projects import view as project_view
from virga.api.identity.shape import links, listing
from virga.domain.identity import SYSTEM, Target
from virga.store.identity import domains_of, projects_of, roles_on


async def list_projects(call: Call) -> Response:
    rows = await call.cloud.db.read(lambda tx: projects_of(tx, call.caller.user_id))
    return listing(call, "projects", [project_view(call, row) for row in rows], ("name", "domain_id", "enabled"))


async def list_domains(call: Call) -> Response:
    rows = await call.cloud.db.read(lambda tx: domains_of(tx, call.caller.user_id))
    return listing(call, "domains", [domain_view(call, row) for row in rows], ("name", "enabled"))


async def list_system(call: Call) -> Response:
    held = await call.cloud.db.read(lambda tx: roles_on(tx, call.caller.user_id, Target("system", SYSTEM)))
    return reply(200, {"system": [{"all": True}] if held else [], "links": links(call, "auth", "system")})
