"""Limits: what a project may use and uses, in the names older clients know. There are no rate limits here."""
from __future__ import annotations

from typing import Any

from starlette.responses import Response

from virga.api.compute.access import project_of
from virga.api.compute.paging import known_args
from virga.api.http import Call, reply
from virga.domain.errors import Problem
from virga.store.db import Tx
from virga.store.quota import project_limits, project_usage

Names = tuple[tuple[str, str], ...]
MAXIMA: Names = (
    ("maxTotalInstances", "instances"), ("maxTotalCores", "cores"), ("maxTotalRAMSize", "ram"),
    ("maxServerMeta", "metadata_items"), ("maxTotalKeypairs", "key_pairs"), ("maxServerGroups", "server_groups"),
    ("maxServerGroupMembers", "server_group_members"))
MAXIMA_UNTIL_235: Names = (
    ("maxTotalFloatingIps", "floating_ips"), ("maxSecurityGroups", "security_groups"),
    ("maxSecurityGroupRules", "security_group_rules"))
MAXIMA_UNTIL_238: Names = (("maxImageMeta", "metadata_items"),)
MAXIMA_UNTIL_256: Names = (("maxPersonality", "injected_files"), ("maxPersonalitySize", "injected_file_content_bytes"))
USED: Names = (
    ("totalInstancesUsed", "instances"), ("totalCoresUsed", "cores"), ("totalRAMUsed", "ram"),
    ("totalServerGroupsUsed", "server_groups"))
USED_UNTIL_235: Names = (("totalFloatingIpsUsed", "floating_ips"), ("totalSecurityGroupsUsed", "security_groups"))


async def show_limits(call: Call) -> Response:
    known_args(call, ("tenant_id", "reserved"))
    wanted = call.arg("tenant_id")
    if wanted is not None and not call.caller.sees(wanted):
        raise Problem(403, "Policy doesn't allow os_compute_api:limits:other_project to be performed.")
    project_id = wanted or project_of(call)

    def work(tx: Tx) -> tuple[dict[str, int], dict[str, int]]:
        return project_limits(tx, call.cloud.config, project_id), project_usage(tx, project_id)

    limits, usage = await call.cloud.db.read(work)
    maxima, used = MAXIMA, USED
    if call.version < (2, 57):
        maxima += MAXIMA_UNTIL_256
    if call.version < (2, 39):
        maxima += MAXIMA_UNTIL_238
    if call.version < (2, 36):
        maxima, used = maxima + MAXIMA_UNTIL_235, used + USED_UNTIL_235
    absolute: dict[str, Any] = {told: limits[name] for told, name in maxima}
    absolute |= {told: usage[name] for told, name in used}
    return reply(200, {"limits": {"rate": [], "absolute": absolute}})


ROUTES = [("GET", "/limits", show_limits)]
