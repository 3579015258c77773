"""The query string of server lists: which filters exist for whom at which version, and what they mean.

Owns: `read_query`, which turns the parameters into a `ListQuery` (a filter, an order, a page). Rules, all Nova's: a
filter the caller may not use is passed over, from 2.75 on an unknown one is refused; `all_tenants` is for admins
(403); status `deleted` too; a name or an IP is a regular expression found anywhere in the value; the newest server
stands first unless told otherwise. A value that cannot be read is 400 with its name.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from virga.api.compute.inputs import boolean, integer, tag
from virga.api.compute.pattern import Pattern, TooCostly
from virga.api.compute.server_views import status_filters
from virga.api.http import Call
from virga.domain.errors import Problem
from virga.store.server_list import ServerFilter, StatusFilter

LIMIT_MAX = 1000

# filters everyone has, with the version that brought them; what others are is for admins, or for everyone since 2.83
PUBLIC: dict[str, tuple[int, int]] = {
    "name": (2, 1),
    "status": (2, 1),
    "image": (2, 1),
    "flavor": (2, 1),
    "ip": (2, 1),
    "changes-since": (2, 1),
    "reservation_id": (2, 1),
    "all_tenants": (2, 1),
    "ip6": (2, 5),
    "tags": (2, 26),
    "tags-any": (2, 26),
    "not-tags": (2, 26),
    "not-tags-any": (2, 26),
    "changes-before": (2, 66),
    "locked": (2, 73),
    "availability_zone": (2, 83),
    "config_drive": (2, 83),
    "key_name": (2, 83),
    "created_at": (2, 83),
    "launched_at": (2, 83),
    "terminated_at": (2, 83),
    "power_state": (2, 83),
    "task_state": (2, 83),
    "vm_state": (2, 83),
    "progress": (2, 83),
    "user_id": (2, 83),
}
ADMIN = {
    "host",
    "node",
    "hostname",
    "uuid",
    "deleted",
    "project_id",
    "tenant_id",
    "description",
    "display_name",
    "display_description",
    "image_ref",
    "access_ip_v4",
    "access_ip_v6",
    "launch_index",
    "locked_by",
    "kernel_id",
    "ramdisk_id",
    "root_device_name",
    "soft_deleted",
    "auto_disk_config",
    "instance_type_id",
    "availability_zone",
    "config_drive",
    "key_name",
    "created_at",
    "launched_at",
    "terminated_at",
    "power_state",
    "task_state",
    "vm_state",
    "progress",
    "user_id",
}
OTHER_STATUSES = {"SOFT_DELETED"}  # a status of the API that no server has here
PAGING = {"limit", "marker", "sort_key", "sort_dir"}
SORT_KEYS = {
    "access_ip_v4": "access_ipv4",
    "access_ip_v6": "access_ipv6",
    "auto_disk_config": "disk_config",
    "availability_zone": "availability_zone",
    "config_drive": "config_drive",
    "created_at": "created_at",
    "display_description": "description",
    "display_name": "name",
    "host": "host",
    "hostname": "hostname",
    "image_ref": "image_id",
    "instance_type_id": "flavor",
    "key_name": "key_name",
    "launch_index": "launch_index",
    "launched_at": "launched_at",
    "locked_by": "locked_by",
    "node": "host",
    "power_state": "power_state",
    "progress": "progress",
    "project_id": "project_id",
    "task_state": "task_state",
    "terminated_at": "deleted_at",
    "updated_at": "updated_at",
    "user_id": "user_id",
    "uuid": "id",
    "vm_state": "vm_state",
    "kernel_id": "id",
    "ramdisk_id": "id",
    "root_device_name": "id",  # the same for every server here
}
COLUMNS = {
    "host": "host",
    "node": "host",
    "uuid": "id",
    "reservation_id": "reservation_id",
    "image": "image_id",
    "image_ref": "image_id",
    "user_id": "user_id",
    "task_state": "task_state",
    "vm_state": "vm_state",
    "key_name": "key_name",
    "access_ip_v4": "access_ipv4",
    "access_ip_v6": "access_ipv6",
    "locked_by": "locked_by",
}
NUMBERS = {"power_state": "power_state", "progress": "progress", "launch_index": "launch_index"}
TIMES = {"created_at": "created_at", "launched_at": "launched_at", "terminated_at": "deleted_at"}


class ListQuery(msgspec.Struct):
    """What a list call asks for. `limit` is how many servers to show at most."""

    wanted: ServerFilter
    sort: list[tuple[str, bool]]
    limit: int
    marker: str | None
    nothing: bool = False  # no server can match; the list is empty


def read_query(call: Call) -> ListQuery:
    """Raises Problem 400 for a value that cannot be read, 403 for what only admins may ask."""
    given = _allowed(call)
    wanted = ServerFilter()
    query = ListQuery(wanted, _sort(call), _limit(call), call.arg("marker"))
    everyone = _everyone(call, given)
    project = given.pop("project_id", None) or given.pop("tenant_id", None)
    given.pop("tenant_id", None)
    if not everyone:
        wanted.equal["project_id"] = call.caller.project_id or ""
    elif project:
        wanted.equal["project_id"] = project[-1]
    _deleted(call, wanted, given)
    _states(call, query, given)
    for name, values in given.items():
        _plain(wanted, name, values)
    _predicates(wanted, given)
    return query


def _allowed(call: Call) -> dict[str, list[str]]:
    """The filters the caller has at this version, with their values in order."""
    found: dict[str, list[str]] = {}
    for name, value in call.query:
        if name in PAGING:
            continue
        if name in PUBLIC and call.version >= PUBLIC[name]:
            found.setdefault(name, []).append(value)
        elif name in ADMIN:
            if call.caller.is_admin:
                found.setdefault(name, []).append(value)
        elif call.version >= (2, 75) and name not in PUBLIC:
            raise Problem(
                400, f"Invalid query parameter {name!r}: there is no such filter, sort or paging parameter."
            )
        # before 2.75 unknown parameters are passed over
    return found


def _limit(call: Call) -> int:
    values = call.args("limit")
    if not values:
        return LIMIT_MAX
    limit: int = integer(0)(values[-1], "limit")
    return min(limit, LIMIT_MAX)


def _sort(call: Call) -> list[tuple[str, bool]]:
    """(column, descending) pairs; ends with what makes the order total."""
    keys, directions = call.args("sort_key"), call.args("sort_dir")
    pairs: list[tuple[str, bool]] = []
    descending = True
    for index, key in enumerate(keys):
        if index < len(directions):
            if directions[index] not in ("asc", "desc"):
                raise Problem(
                    400, f"Invalid input for query parameter sort_dir: {directions[index]!r} is neither asc nor desc."
                )
            descending = directions[index] == "desc"
        column = "locked" if key == "locked" and call.version >= (2, 73) else SORT_KEYS.get(key)
        if column is None:
            raise Problem(400, f"Invalid input for query parameter sort_key: servers cannot be sorted by {key!r}.")
        if column in ("host",) and not call.caller.is_admin:
            raise Problem(403, f"Policy doesn't allow sorting by {key} to be performed: it needs the role admin.")
        pairs.append((column, descending))
    for direction in directions:
        if direction not in ("asc", "desc"):
            raise Problem(400, f"Invalid input for query parameter sort_dir: {direction!r} is neither asc nor desc.")
    if not keys and directions:
        descending = directions[0] == "desc"
    named = {column for column, _ in pairs}
    return [*pairs, *((column, descending) for column in ("created_at", "id") if column not in named)]


def _everyone(call: Call, given: dict[str, list[str]]) -> bool:
    """Whether all projects are asked for."""
    values = given.pop("all_tenants", None)
    if values is None:
        return False
    everyone = values[-1] == "" or boolean(values[-1], "all_tenants")
    if everyone and not call.caller.is_admin:
        raise Problem(
            403,
            "Policy doesn't allow os_compute_api:servers:index:get_all_tenants to be performed: "
            "listing the servers of all projects needs the role admin.",
        )
    return everyone


def _deleted(call: Call, wanted: ServerFilter, given: dict[str, list[str]]) -> None:
    """Deleted servers are listed when asked for, and beside the others when a time of change is."""
    for name in ("changes-since", "changes-before"):
        if name in given:
            at = moment(given.pop(name)[-1], name)
            if name == "changes-since":
                wanted.changed_since, wanted.deleted = at, None
            else:
                wanted.changed_before = at
                wanted.deleted = None if wanted.changed_since is None else wanted.deleted
    since, before = wanted.changed_since, wanted.changed_before
    if since is not None and before is not None and since > before:
        raise Problem(400, "The value of changes-since must be less than or equal to changes-before.")
    if "deleted" in given:
        wanted.deleted = boolean(given.pop("deleted")[-1] or "true", "deleted")
    given.pop("soft_deleted", None)  # nothing is ever soft-deleted here


def _states(call: Call, query: ListQuery, given: dict[str, list[str]]) -> None:
    statuses = [status for status in given.pop("status", []) if status]
    if not statuses:
        return
    found: list[StatusFilter] = []
    for status in statuses:
        states = status_filters(status)
        if not states and call.version >= (2, 38) and status.upper() not in OTHER_STATUSES:
            raise Problem(400, f"Invalid status value: there is no server status {status[:80]!r}.")
        found += states
    if any(status.upper() == "DELETED" for status in statuses):
        if not call.caller.is_admin:
            raise Problem(403, "Only administrators may list deleted servers.")
        query.wanted.deleted = True if query.wanted.deleted is False else query.wanted.deleted
    query.wanted.states = found
    query.nothing = not found


def _plain(wanted: ServerFilter, name: str, values: list[str]) -> None:
    """Filters that are a column."""
    value = values[-1]
    if name in COLUMNS:
        column = COLUMNS[name]
        if name in ("task_state",) and value.lower() in ("", "none", "null"):
            wanted.equal[column] = None
        else:
            wanted.equal[column] = (
                list(dict.fromkeys(values)) if len(values) > 1 else _last(value) if name == "image" else value
            )
    elif name in NUMBERS:
        wanted.equal[NUMBERS[name]] = integer(-1)(value, name)
    elif name in TIMES:
        wanted.at[TIMES[name]] = float(int(moment(value, name)))
    elif name in ("locked", "config_drive"):
        wanted.equal[name] = boolean(value or "false", name)
    elif name in ("flavor", "instance_type_id"):
        wanted.flavor_id = _last(value)
    elif name == "availability_zone":
        wanted.zone = value
    elif name == "auto_disk_config":
        wanted.equal["disk_config"] = "AUTO" if boolean(value, name) else "MANUAL"


def _last(reference: str) -> str:
    """The id at the end of a link."""
    return reference.rstrip("/").rpartition("/")[2]


def _predicates(wanted: ServerFilter, given: dict[str, list[str]]) -> None:
    """Filters that look into a value: regular expressions and tags."""
    tests: list[Callable[[dict[str, Any]], bool]] = []
    for name, column in (
        ("name", "name"),
        ("display_name", "name"),
        ("description", "description"),
        ("display_description", "description"),
        ("hostname", "hostname"),
    ):
        if name in given:
            tests.append(_matches(column, expression(given[name][-1], name)))
    for name in ("tags", "tags-any", "not-tags", "not-tags-any"):
        if name in given:
            tests.append(_tagged(name, given[name][-1]))
    if tests:
        wanted.predicate = lambda row: all(test(row) for test in tests)
    for name in ("ip", "ip6"):
        if name in given:
            wanted.address = _address(expression(given[name][-1], name), ":" if name == "ip6" else ".")


def _matches(column: str, pattern: Pattern) -> Callable[[dict[str, Any]], bool]:
    return lambda row: _found(pattern, row[column] or "")


def _address(pattern: Pattern, sign: str) -> Callable[[str], bool]:
    return lambda address: sign in address and _found(pattern, address)


def _found(pattern: Pattern, value: str) -> bool:
    try:
        return pattern.search(value)
    except TooCostly as error:
        raise Problem(400, f"Invalid regular expression in a filter: {error}.") from None


def _tagged(name: str, value: str) -> Callable[[dict[str, Any]], bool]:
    asked = {tag(item, name) for item in value.split(",") if item}

    def test(row: dict[str, Any]) -> bool:
        have = set(msgspec.json.decode(row["tags"]))
        found = bool(asked & have) if name.endswith("-any") else asked <= have
        return not found if name.startswith("not-") else found

    return test


def expression(text: str, name: str) -> Pattern:
    try:
        return Pattern(text)
    except ValueError as error:
        raise Problem(
            400, f"Invalid input for query parameter {name}: {text[:80]!r} is no regular expression ({error})."
        ) from None


def moment(text: str, name: str) -> float:
    """An ISO 8601 time as seconds since the epoch; without a zone it is UTC."""
    try:
        # a '+' of a zone arrives as a blank when the client did not quote it
        at = datetime.fromisoformat(re.sub(r"(T[\d:.]+) (?=[\d:]+$)", r"\1+", text.strip()))
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise Problem(
            400, f"Invalid input for query parameter {name}: {text[:80]!r} is not an ISO 8601 time."
        ) from None
