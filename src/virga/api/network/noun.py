"""Noun: one resource of the network API, and the five verbs every resource shares.

A noun declares its fields and says what is particular about it (`view`, `create`, `change`, `remove`); list, show,
create (one or many), update and delete with their checks live here. Rules: a request is one transaction; what a
caller may not see does not exist for it (404); what it sees but does not own it may not touch (403); a reader changes
nothing (403); a field marked `admin` is refused to others (403). Every change raises `revision_number`, and
`If-Match: revision_number=N` makes it conditional (412).
"""
from __future__ import annotations

import typing
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any, ClassVar, Generic, TypeVar

import msgspec
from msgspec import UNSET
from starlette.responses import Response

from virga.api.http import Call, Caller, Service, reply
from virga.api.network import lists
from virga.api.network.bodies import bodies_of, match_revision
from virga.api.network.fields import Bad, Field, project, quoted
from virga.domain.ask import Ask
from virga.domain.config import Config
from virga.domain.errors import Problem
from virga.domain.network import SHAREABLE, RbacPolicy
from virga.domain.row import Row
from virga.ops import network_quota
from virga.store.db import Exists, Tx
from virga.store.rows import table_of

R = TypeVar("R", bound=Row)
View = dict[str, Any]
Attrs = dict[str, Any]
SHARED, EXTERNAL, EVERYBODY = "access_as_shared", "access_as_external", "*"


class Who(msgspec.Struct, frozen=True):
    """The caller in the words the nouns need. `admin` is also true of a service: both see hosts and other projects."""

    caller: Caller
    ask: Ask
    project_id: str
    admin: bool

    @property
    def config(self) -> Config:
        return self.ask.config

    def owns(self, row: Any) -> bool:
        return self.admin or (bool(self.project_id) and row.project_id == self.project_id)


def who_of(call: Call) -> Who:
    caller = call.caller
    admin = caller.is_admin or "service" in caller.roles
    home = caller.project_id or ""
    return Who(caller, Ask(call.cloud.config, home, caller.user_id, call.request_id, caller.is_admin), home, admin)


def stamp(at: float) -> str:
    """Seconds since the epoch as the API writes times: 2026-01-01T00:00:00Z."""
    days, second = divmod(int(at), 86400)
    # civil date of a day number (days since 1970-01-01), proleptic Gregorian: eras of 400 years that begin on 1 March
    era, of_era = divmod(days + 719468, 146097)
    year = (of_era - of_era // 1460 + of_era // 36524 - of_era // 146096) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    month = (5 * of_year + 2) // 153
    day = of_year - (153 * month + 2) // 5 + 1
    month = month + 3 if month < 10 else month - 9
    year = year + era * 400 + (1 if month <= 2 else 0)
    return f"{year:04d}-{month:02d}-{day:02d}T{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}Z"


def forbidden(rule: str, why: str = "") -> Problem:
    return Problem(403, f"({rule}) is disallowed by policy" + (f": {why}" if why else ""), "PolicyNotAuthorized")


def shared_ids(tx: Tx, object_type: str, project_id: str, actions: Sequence[str] = (SHARED,)) -> set[str]:
    """Objects that RBAC policies let a project use."""
    return {policy.object_id for policy in tx.find(
        RbacPolicy, object_type=object_type, target_project=[EVERYBODY, project_id], action=list(actions))}


class Noun(Generic[R]):
    """Subclasses set the class variables and override what differs. `kind` is the error type of "no such thing", '{id}' in `absent` its id."""

    one: ClassVar[str] = ""
    many: ClassVar[str] = ""
    path: ClassVar[str] = ""  # last part of the URL where it is not `many` with dashes
    label: ClassVar[str] = ""
    kind: ClassVar[str] = ""
    absent: ClassVar[str] = ""
    rbac: ClassVar[str] = ""  # object_type of RBAC policies, '' where it cannot be shared
    quota: ClassVar[str] = ""
    admin_views: ClassVar[frozenset[str]] = frozenset()  # view keys only admins see
    more_filters: ClassVar[frozenset[str]] = frozenset()
    tagged: ClassVar[bool] = False
    bulk: ClassVar[bool] = True
    verbs: ClassVar[tuple[str, ...]] = ("list", "show", "create", "update", "delete")
    row: type[R]
    fields: ClassVar[dict[str, Field]] = {}

    # what a noun says of itself --------------------------------------------------------------------------------------
    def view(self, tx: Tx, who: Who, row: R) -> View:
        """The row as JSON, without the keys every noun has."""
        raise AssertionError(f"{type(self).__name__} shows nothing")

    def views(self, tx: Tx, who: Who, rows: Sequence[R]) -> list[View]:
        return [self.view(tx, who, row) for row in rows]

    def create(self, tx: Tx, who: Who, project_id: str, attrs: Attrs) -> R:
        """Insert and return. `attrs` are checked; fields that were not given and have no default are absent."""
        raise AssertionError(f"{type(self).__name__} is not created")

    def change(self, tx: Tx, who: Who, row: R, attrs: Attrs) -> dict[str, Any]:
        """The columns that change; the rest of the work (other rows) is done here too."""
        return self.columns(attrs)

    def remove(self, tx: Tx, who: Who, row: R) -> None:
        tx.delete(self.row, row.id)  # type: ignore[attr-defined]

    def visible(self, tx: Tx, who: Who) -> Callable[[R], bool] | None:
        """Which rows of other projects a caller sees besides its own; None for none at all."""
        if not self.rbac:
            return None
        ids = shared_ids(tx, self.rbac, who.project_id, SHAREABLE[self.rbac][1])
        return lambda row: row.id in ids  # type: ignore[attr-defined]

    def owns(self, tx: Tx, who: Who, row: R) -> bool:
        return who.owns(row)

    def touched(self, tx: Tx) -> None:
        tx.hint("hostview")

    # shared by all ----------------------------------------------------------------------------------------------------
    def columns(self, attrs: Attrs) -> dict[str, Any]:
        """Attributes as columns, for those that are columns."""
        names = {name: self.fields[name].column or name for name in attrs if name in self.fields}
        have = set(table_of(self.row).fields)
        return {names[name]: value for name, value in attrs.items() if names.get(name) in have}

    def base(self, row: Any) -> View:
        """Keys that every noun shows."""
        shown: View = {"id": row.id, "project_id": row.project_id, "tenant_id": row.project_id}
        for name in ("name", "description", "tags", "revision_number"):
            if hasattr(row, name):
                shown[name] = getattr(row, name)
        if hasattr(row, "created_at") and hasattr(row, "updated_at"):
            shown["created_at"] = stamp(row.created_at)
            shown["updated_at"] = stamp(row.updated_at)
        return shown

    def shown(self, tx: Tx, who: Who, rows: Sequence[R]) -> list[View]:
        views = self.views(tx, who, rows)
        if not who.admin and self.admin_views:
            return [{name: value for name, value in view.items() if name not in self.admin_views} for view in views]
        return views

    def not_found(self, wanted: str) -> Problem:
        message = (self.absent or f"{self.label} {{id}} could not be found.").replace("{id}", wanted[:80])
        return Problem(404, message, self.kind or f"{self.label}NotFound")

    def find(self, tx: Tx, who: Who, wanted: str) -> R:
        """The row if the caller may see it. Raises Problem 404."""
        row = tx.get(self.row, wanted)
        if row is not None and not self.owns(tx, who, row):
            others = self.visible(tx, who)
            if others is None or not others(row):
                row = None
        if row is None:
            raise self.not_found(wanted)
        return row

    def mine(self, tx: Tx, who: Who, wanted: str, verb: str) -> R:
        """The row if the caller may change it. Raises Problem 404 or 403."""
        row = self.find(tx, who, wanted)
        if not self.owns(tx, who, row):
            raise forbidden(f"rule:{verb}_{self.one}", "it belongs to another project")
        return row

    def candidates(self, tx: Tx, who: Who, conditions: dict[str, Any]) -> list[R]:
        """Every row the caller sees that meets the conditions, oldest first."""
        if who.admin:
            return tx.find(self.row, sort=[("created_at", False), ("id", False)], **conditions)
        others = self.visible(tx, who)
        if others is None:
            if "project_id" in conditions and who.project_id not in conditions["project_id"]:
                return []
            conditions = {**conditions, "project_id": who.project_id}
        rows = tx.find(self.row, sort=[("created_at", False), ("id", False)], **conditions)
        return [row for row in rows if self.owns(tx, who, row) or (others is not None and others(row))]

    def _pushed(self, wished: dict[str, list[str]]) -> tuple[dict[str, Any], set[str]]:
        """Filters the database can answer, as conditions and by name: those on plain text columns shown under their own name."""
        plain = plain_columns(self.row)
        pushed: dict[str, Any] = {}
        names: set[str] = set()
        for name, values in wished.items():
            if name in plain and name not in self.admin_views and len(values) <= 500:
                column = "project_id" if name == "tenant_id" else name
                pushed[column] = sorted(set(values) & set(pushed[column])) if column in pushed else values
                names.add(name)
        return pushed, names

    def known_filters(self) -> frozenset[str]:
        base = {"id", "project_id", "tenant_id", "name", "description", "revision_number", "created_at", "updated_at", "changed_since"}
        return frozenset(base | set(self.fields) | self.more_filters | self.admin_views | (lists.TAG_FILTERS if self.tagged else set()))

    def listing(self, tx: Tx, who: Who, query: lists.Query, url: str) -> View:
        known = self.known_filters()
        wished = lists.filters_of(query, known)
        pushed, answered = self._pushed(wished)
        rows = self.candidates(tx, who, pushed)
        left = {name: values for name, values in wished.items() if name not in answered}
        if left or any(name.startswith("sort_") for name, _ in query):
            views = self.shown(tx, who, rows)
            for name, values in left.items():
                views = [view for view in views if lists.meets(view, name, values)]
            result = lists.page(lists.sort(views, query, known.__contains__), query, self.many, url)
        else:
            # the database has filtered and ordered: only the page asked for is turned into views
            by_id: dict[str, R] = {row.id: row for row in rows}  # type: ignore[attr-defined]
            result = lists.page([{"id": row_id} for row_id in by_id], query, self.many, url)
            result[self.many] = self.shown(tx, who, [by_id[stub["id"]] for stub in result[self.many]])
        result[self.many] = [lists.choose(view, query) for view in result[self.many]]
        return result

    # bodies -----------------------------------------------------------------------------------------------------------
    def checked(self, who: Who, given: Any, *, creating: bool) -> Attrs:
        """The attributes of a body, clean. Raises Problem 400 naming the field, 403 for what only an admin may set."""
        if not isinstance(given, dict):
            raise Problem(400, f"Invalid input for {self.one}. Reason: {quoted(given)} is not a dictionary.", "HTTPBadRequest")
        attrs: Attrs = {}
        unknown = [name for name in given if name not in self.fields and name not in ("project_id", "tenant_id")]
        if unknown:
            raise Problem(400, f"Unrecognized attribute(s) '{', '.join(sorted(unknown)[:8])[:200]}'", "HTTPBadRequest")
        for name in ("project_id", "tenant_id"):
            if name in given:
                if not creating:
                    raise Problem(400, f"Cannot update read-only attribute {name}", "HTTPBadRequest")
                attrs["project_id"] = self._clean(name, project, given[name])
        for name, field in self.fields.items():
            if name in given:
                if not (field.post if creating else field.put):
                    verb = "Attribute '%s' not allowed in POST" if creating else "Cannot update read-only attribute %s"
                    raise Problem(400, verb % name, "HTTPBadRequest")
                value = self._clean(name, field.check, given[name])
                if field.admin and not who.admin and (not creating or value != field.default):
                    raise forbidden(f"rule:{'create' if creating else 'update'}_{self.one}:{name}")
                attrs[name] = value
            elif creating and field.required:
                raise Problem(400, f"Failed to parse request. Required attribute '{name}' not specified", "HTTPBadRequest")
            elif creating and field.default is not UNSET:
                attrs[name] = field.default
        return attrs

    def _clean(self, name: str, check: Callable[[Any], Any], value: Any) -> Any:
        try:
            return check(value)
        except Bad as bad:
            raise Problem(400, f"Invalid input for {name}. Reason: {bad}.", "HTTPBadRequest") from bad

    def home_of(self, who: Who, attrs: Attrs) -> str:
        """The project the new thing belongs to. Raises Problem 400 for a foreign or missing one."""
        wished = attrs.pop("project_id", None)
        if wished is not None and wished != who.project_id and not who.admin:
            raise Problem(400, "Specifying 'project_id' or 'tenant_id' other than the authenticated project in request requires "
                               "admin privileges", "HTTPBadRequest")
        home: str = who.project_id if wished is None else wished
        if not home:
            raise Problem(400, "Running without a project: scope the token to one, or give project_id.", "HTTPBadRequest")
        return home

    def may_write(self, who: Who, verb: str) -> None:
        if not who.admin and not who.caller.may_write():
            raise forbidden(f"rule:{verb}_{self.one}", "the role reader may only look")

    def change_row(self, tx: Tx, who: Who, row: R, attrs: Attrs) -> R:
        """Apply `change` and return the row as it is now."""
        columns = self.change(tx, who, row, attrs)
        raised = {"revision_number": row.revision_number + 1}  # type: ignore[attr-defined]
        if "updated_at" in table_of(self.row).fields:
            raised["updated_at"] = tx.now
        tx.update(self.row, row.id, **columns, **raised)  # type: ignore[attr-defined]
        self.touched(tx)
        return tx.need(self.row, row.id)  # type: ignore[attr-defined]

    # verbs ------------------------------------------------------------------------------------------------------------
    async def on_list(self, call: Call) -> Response:
        who = who_of(call)
        url = call.base_url() + call.path

        def work(tx: Tx) -> bytes:
            return msgspec.json.encode(self.listing(tx, who, call.query, url))

        return reply(200, await call.cloud.db.read(work))

    async def on_show(self, call: Call) -> Response:
        who = who_of(call)

        def work(tx: Tx) -> View:
            return self.shown(tx, who, [self.find(tx, who, call.params["id"])])[0]

        return reply(200, {self.one: lists.choose(await call.cloud.db.read(work), call.query)})

    async def on_create(self, call: Call) -> Response:
        who = who_of(call)
        self.may_write(who, "create")
        body = await call.json()
        many = isinstance(body, dict) and self.bulk and self.many in body
        given = bodies_of(body, self.one, self.many, many)
        made = [self.checked(who, item, creating=True) for item in given]

        def work(tx: Tx) -> list[View]:
            rows = []
            for attrs in made:
                attrs = dict(attrs)
                home = self.home_of(who, attrs)
                if self.quota:
                    network_quota.need_room(tx, who.ask, home, self.quota)
                rows.append(self.create(tx, who, home, attrs))
            self.touched(tx)
            return self.shown(tx, who, rows)

        views = await guarded(call, work)
        return reply(201, {self.many: views} if many else {self.one: views[0]})

    async def on_update(self, call: Call) -> Response:
        who = who_of(call)
        self.may_write(who, "update")
        given = bodies_of(await call.json(), self.one, self.many, False)[0]

        def work(tx: Tx) -> View:
            row = self.find(tx, who, call.params["id"])
            attrs = self.checked(who, given, creating=False)
            if not self.owns(tx, who, row):
                raise forbidden(f"rule:update_{self.one}", "it belongs to another project")
            match_revision(call, row)
            return self.shown(tx, who, [self.change_row(tx, who, row, attrs)])[0]

        return reply(200, {self.one: await guarded(call, work)})

    async def on_delete(self, call: Call) -> Response:
        who = who_of(call)
        self.may_write(who, "delete")

        def work(tx: Tx) -> None:
            row = self.mine(tx, who, call.params["id"], "delete")
            match_revision(call, row)
            self.remove(tx, who, row)
            self.touched(tx)

        await guarded(call, work)
        return reply(204)

    def mount(self, service: Service) -> None:
        """Put the verbs into the service's table."""
        root = "/v2.0/" + (self.path or self.many.replace("_", "-"))
        handlers = {"list": ("GET", root, self.on_list), "create": ("POST", root, self.on_create),
                    "show": ("GET", root + "/{id}", self.on_show), "update": ("PUT", root + "/{id}", self.on_update),
                    "delete": ("DELETE", root + "/{id}", self.on_delete)}
        service.table(handlers[verb] for verb in self.verbs)


async def guarded(call: Call, work: Callable[[Tx], Any]) -> Any:
    """Run a writing closure. A unique value taken is a conflict of the user's making."""
    try:
        return await call.cloud.db.run(work)
    except Exists as clash:
        raise Problem(409, f"A thing with these values exists already ({clash.detail}).", "Conflict") from clash


def remove_policies(tx: Tx, object_id: str) -> None:
    tx.delete_where(RbacPolicy, object_id=object_id)


@cache
def plain_columns(row_type: type[Row]) -> frozenset[str]:
    """Columns of plain text, and the old name of one of them."""
    hints = typing.get_type_hints(row_type)
    return frozenset(name for name in table_of(row_type).fields if hints[name] is str) | {"tenant_id"}


def zone_names(hosts: Iterable[Any]) -> list[str]:
    return sorted({host.availability_zone for host in hosts}) or ["nova"]
