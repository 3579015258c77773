"""The versions documents: which identity API there is, for clients that discover it."""
from __future__ import annotations

from typing import Any

from starlette.responses import Response

from virga.api.http import Call, reply
from virga.api.identity.shape import link


def version(call: Call) -> dict[str, Any]:
    return {
        "id": "v3.14", "status": "stable", "updated": "2020-04-07T00:00:00Z",
        "links": [{"rel": "self", "href": link(call) + "/"}],
        "media-types": [{"base": "application/json", "type": "application/vnd.openstack.identity-v3+json"}],
    }


async def list_versions(call: Call) -> Response:
    """300, as clients know it of identity's root: there is a choice of one."""
    return reply(300, {"versions": {"values": [version(call)]}}, {"Location": link(call) + "/"})


async def show_version(call: Call) -> Response:
    return reply(200, {"version": version(call)})
