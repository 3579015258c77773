"""Small calls of older clients: the list of extensions, os-hosts, the usage audit log, and calls whose service is elsewhere.

Rules: what can be answered from rows is answered, until the microversion it ended with (os-hosts 2.42). What would need
block storage says so plainly: this cloud has none.
"""
from __future__ import annotations

from typing import Any

from starlette.responses import Response

from virga.api.compute import inputs
from virga.api.compute.access import must_admin
from virga.api.compute.hypervisors import Machine, machines
from virga.api.compute.inputs import Fields, bad
from virga.api.compute.microversion import need
from virga.api.compute.server_query import moment
from virga.api.compute.server_views import iso_micro
from virga.api.http import Call, reply
from virga.domain.errors import Problem
from virga.domain.placement import Host
from virga.domain.server import Server
from virga.ops import front
from virga.store.db import Tx

HOSTS_UNTIL = (2, 42)
UPDATED = "2014-12-03T00:00:00Z"  # the day the API reference gives to every extension of v2.1

# alias -> name, as clients look for them; only what this service answers
EXTENSIONS = {
    "NMN": "Multinic", "OS-DCF": "DiskConfig", "OS-EXT-AZ": "ExtendedAvailabilityZone",
    "OS-EXT-IMG-SIZE": "ImageSize", "OS-EXT-SRV-ATTR": "ExtendedServerAttributes", "OS-EXT-STS": "ExtendedStatus",
    "OS-FLV-DISABLED": "FlavorDisabled", "OS-FLV-EXT-DATA": "FlavorExtraData", "OS-SCH-HNT": "SchedulerHints",
    "OS-SRV-USG": "ServerUsage", "flavor-access": "FlavorAccess", "flavors": "Flavors", "images": "Images",
    "os-admin-actions": "AdminActions", "os-aggregates": "Aggregates", "os-attach-interfaces": "AttachInterfaces",
    "os-availability-zone": "AvailabilityZone", "os-config-drive": "ConfigDrive",
    "os-console-output": "ConsoleOutput", "os-consoles": "Consoles", "os-evacuate": "Evacuate",
    "os-extended-quotas": "ExtendedQuotas", "os-extended-services": "ExtendedServices",
    "os-flavor-extra-specs": "FlavorExtraSpecs", "os-flavor-manage": "FlavorManage", "os-hosts": "Hosts",
    "os-hypervisors": "Hypervisors", "os-hypervisor-status": "HypervisorStatus",
    "os-instance-actions": "InstanceActions", "os-instance_usage_audit_log": "InstanceUsageAuditLog",
    "os-keypairs": "Keypairs", "os-lock-server": "LockServer", "os-migrate-server": "MigrateServer",
    "os-migrations": "Migrations", "os-multiple-create": "MultipleCreate", "os-pause-server": "PauseServer",
    "os-quota-class-sets": "QuotaClasses", "os-quota-sets": "Quotas", "os-rescue": "Rescue",
    "os-server-external-events": "ServerExternalEvents", "os-server-groups": "ServerGroups",
    "os-services": "Services", "os-shelve": "Shelve", "os-simple-tenant-usage": "SimpleTenantUsage",
    "os-suspend-server": "SuspendServer", "os-used-limits": "UsedLimits", "os-user-data": "UserData",
    "server-migrations": "ServerMigrations", "servers": "Servers", "versions": "Versions"}


def _extension(alias: str) -> dict[str, Any]:
    return {"alias": alias, "name": EXTENSIONS[alias], "description": f"{EXTENSIONS[alias]} support.", "links": [],
            "namespace": "http://docs.openstack.org/compute/ext/fake_xml", "updated": UPDATED}


async def list_extensions(call: Call) -> Response:
    return reply(200, {"extensions": [_extension(alias) for alias in EXTENSIONS]})


async def show_extension(call: Call) -> Response:
    if call.params["alias"] not in EXTENSIONS:
        raise Problem(404, f"There is no extension '{call.params['alias']}'.")
    return reply(200, {"extension": _extension(call.params["alias"])})


# os-hosts ---------------------------------------------------------------------------------------------------------
def _hosts_call(call: Call, rule: str) -> None:
    must_admin(call, f"os_compute_api:os-hosts:{rule}")
    need(call, (2, 1), HOSTS_UNTIL)


def _host_view(host: Host) -> dict[str, str]:
    return {"host_name": host.name, "service": "compute", "zone": host.availability_zone}


async def list_hosts(call: Call) -> Response:
    _hosts_call(call, "list")
    zone = call.arg("zone")
    hosts = await call.cloud.db.read(lambda tx: tx.find(Host, sort=[("number", False)]))
    return reply(200, {"hosts": [_host_view(host) for host in hosts if not zone or host.availability_zone == zone]})


async def show_host(call: Call) -> Response:
    """A host's whole, what is used, and what each project uses, as lists of `resource`."""
    _hosts_call(call, "show")
    name = call.params["host"]

    def work(tx: Tx) -> tuple[Machine, list[Server]] | None:
        machine = next((item for item in machines(tx) if item.host.name == name), None)
        return None if machine is None else (machine, tx.find(Server, host=name, deleted_at=None))

    found = await call.cloud.db.read(work)
    if found is None:
        raise Problem(404, f"Compute host {name} could not be found.")
    machine, servers = found

    def resource(project: str, cpu: int, memory_mb: int, disk_gb: int) -> dict[str, Any]:
        return {"resource": {"host": name, "project": project, "cpu": cpu, "memory_mb": memory_mb, "disk_gb": disk_gb}}

    host, used = machine.host, machine.used
    rows = [resource("(total)", host.vcpus, host.ram_mb, host.disk_gb),
            resource("(used_now)", used.vcpus, used.ram_mb, used.disk_gb)]
    for title, chosen in [("(used_max)", servers), *(
            (project, [server for server in servers if server.project_id == project])
            for project in sorted({server.project_id for server in servers}))]:
        rows.append(resource(
            title, sum(server.flavor.vcpus for server in chosen), sum(server.flavor.ram_mb for server in chosen),
            sum(server.flavor.disk_gb + server.flavor.ephemeral_gb for server in chosen)))
    return reply(200, {"host": rows})


async def update_host(call: Call) -> Response:
    _hosts_call(call, "update")
    fields = Fields(call, await call.json(), "the body")
    status = fields.take("status", _word("enable", "disable"))
    maintenance = fields.take("maintenance_mode", _word("enable", "disable"))
    fields.done()
    if status is None and maintenance is None:
        raise Problem(400, "The request body must hold status, maintenance_mode, or both.")

    def work(tx: Tx) -> None:
        host = tx.get(Host, call.params["host"])
        if host is None:
            raise Problem(404, f"Compute host {call.params['host']} could not be found.")
        if maintenance is not None:
            raise Problem(501, "Maintenance mode is not offered by the hosts of this cloud; disable the service instead.")
        front.set_host_disabled(tx, host, status == "disable")

    await call.cloud.db.run(work)
    return reply(200, {"host": call.params["host"], "status": f"{status}d"})


def _word(*words: str) -> inputs.Check:
    """One of `words`, in any case and with white space around it, as os-hosts always took it."""

    def check(value: Any, place: str) -> str:
        clean = value.strip().lower() if isinstance(value, str) else value
        if clean not in words:
            raise bad(place, f"{value!r} is not one of {', '.join(words)}.")
        return str(clean)

    return check


async def power_host(call: Call) -> Response:
    """GET …/startup, …/shutdown, …/reboot: hosts are not powered from here."""
    _hosts_call(call, "power")
    if await call.cloud.db.read(lambda tx: tx.get(Host, call.params["host"])) is None:
        raise Problem(404, f"Compute host {call.params['host']} could not be found.")
    raise Problem(501, "Virt driver does not implement host power actions.")


# audit log --------------------------------------------------------------------------------------------------------
async def audit_log(call: Call) -> Response:
    """No usage audit task runs here, so every host is told as not having run one."""
    must_admin(call, "os_compute_api:os-instance-usage-audit-log")
    before = call.params.get("before")
    end = call.cloud.env.now() if before is None else moment(before, "before")
    hosts = await call.cloud.db.read(lambda tx: [host.name for host in tx.find(Host, sort=[("number", False)])])
    begin = end - end % 3600.0 - 3600.0
    log = {
        "log": {}, "hosts_not_run": hosts, "num_hosts": len(hosts), "num_hosts_done": 0, "num_hosts_running": 0,
        "num_hosts_not_run": len(hosts), "overall_status": f"0 of {len(hosts)} hosts done. 0 errors.",
        "period_beginning": (iso_micro(begin) or "").replace("T", " ")[:19],
        "period_ending": (iso_micro(begin + 3600.0) or "").replace("T", " ")[:19],
        "total_errors": 0, "total_instances": 0}
    return reply(200, {"instance_usage_audit_log" if before is not None else "instance_usage_audit_logs": log})


# what needs block storage -----------------------------------------------------------------------------------------
async def no_block_storage(call: Call) -> Response:
    must_admin(call, "os_compute_api:os-assisted-volume-snapshots")
    raise Problem(400, "This cloud has no block storage, so there are no volume snapshots to assist with.")


async def no_volumes(call: Call) -> Response:
    need(call, (2, 1), (2, 35))
    raise Problem(404, "This cloud has no block storage service, so there are no volumes or volume snapshots.")


ROUTES = [
    ("GET", "/extensions", list_extensions),
    ("GET", "/extensions/{alias}", show_extension),
    ("GET", "/os-hosts", list_hosts),
    ("GET", "/os-hosts/{host}", show_host),
    ("PUT", "/os-hosts/{host}", update_host),
    ("GET", "/os-hosts/{host}/startup", power_host),
    ("GET", "/os-hosts/{host}/shutdown", power_host),
    ("GET", "/os-hosts/{host}/reboot", power_host),
    ("GET", "/os-instance_usage_audit_log", audit_log),
    ("GET", "/os-instance_usage_audit_log/{before}", audit_log),
    ("POST", "/os-assisted-volume-snapshots", no_block_storage),
    ("DELETE", "/os-assisted-volume-snapshots/{snapshot_id}", no_block_storage),
    *((method, path, no_volumes) for path in (
        "/os-volumes", "/os-volumes/detail", "/os-volumes/{volume_id}", "/os-snapshots", "/os-snapshots/detail",
        "/os-snapshots/{snapshot_id}") for method in ("GET", "POST", "DELETE")),
]
