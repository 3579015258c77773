"""The memory engine against SQLite: random closures on both give the same answers, the same errors, and leave the same rows.

The rows are of real tables, chosen for what their schema holds: composite keys, partial and unique indexes, JSON, bool and float columns, empty values.
"""
from __future__ import annotations

import asyncio
import random
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from virga.domain.compute import Aggregate
from virga.domain.network import Network, SecurityGroup
from virga.domain.operation import Command, Guest, Operation
from virga.domain.port import Binding
from virga.domain.row import Row
from virga.domain.server import Fault, Flavor, FlavorSpec, Server
from virga.runtime.env import Env
from virga.runtime.trace import Trace
from virga.store.catalog import Only, catalog
from virga.store.db import Db, Exists, Op, SimDb, Tx
from virga.store.memory import MemoryDb
from virga.store.memory_tables import plan_of

SPEC = FlavorSpec("1", "small", 1, 512, 1, extra_specs={"hw:a": "b"})
NAMES = ("a", "b", "B", "ä", "")
FEW = st.sampled_from(NAMES)
TIMES = st.sampled_from([0.0, 1.0, 1.5, 2, 1e9 + 0.25])
MAYBE_TIME = st.none() | TIMES
JSON = st.recursive(st.none() | st.booleans() | st.integers(-9, 9) | st.text("ab\"é", max_size=3),
                    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("xy", max_size=2), inner, max_size=2), max_leaves=4)
OBJECT = st.dictionaries(st.text("xy", max_size=2), JSON, max_size=2)

# type -> columns that are drawn, and a row made of them
DRAWN: dict[type[Row], dict[str, st.SearchStrategy[Any]]] = {
    Server: {"id": FEW, "project_id": FEW, "name": FEW, "host": st.none() | FEW, "vm_state": FEW, "locked": st.booleans(),
             "metadata": st.dictionaries(FEW, FEW),
             "tags": st.lists(FEW, max_size=2), "created_at": TIMES, "deleted_at": MAYBE_TIME, "old_flavor": st.none() | st.just(SPEC),
             "fault": st.none() | st.just(Fault(500, "m", 1.5, "d")), "scheduler_hints": OBJECT, "power_state": st.integers(0, 3)},
    Binding: {"port_id": FEW, "host": FEW, "generation": st.integers(0, 3), "state": st.sampled_from(["active", "opening"]), "profile": OBJECT},
    Operation: {"id": FEW, "server_id": FEW, "state": st.sampled_from(["running", "undoing", "done"]), "epoch": st.integers(0, 3), "notes": OBJECT,
                "deadline_at": MAYBE_TIME, "started_at": TIMES},
    Command: {"id": FEW, "host": FEW, "server_id": FEW, "state": st.sampled_from(["pending", "done"]), "number": st.integers(0, 5), "args": OBJECT},
    Guest: {"server_id": FEW, "host": FEW, "state": FEW, "disk": st.booleans(), "revision": st.integers(0, 3)},
    Flavor: {"id": FEW, "name": FEW, "is_public": st.booleans(), "description": st.none() | FEW, "rxtx_factor": st.sampled_from([1, 1.0, 0.5])},
    Network: {"id": FEW, "project_id": FEW, "is_default": st.booleans(), "segmentation_id": st.none() | st.integers(0, 3)},
    SecurityGroup: {"id": FEW, "project_id": FEW, "name": st.sampled_from(["default", "other"])},
    Aggregate: {"id": st.integers(1, 5), "uuid": FEW, "name": FEW, "hosts": st.lists(FEW, max_size=2)},
}
BASE: dict[type[Row], dict[str, Any]] = {
    Server: {"user_id": "u", "flavor": SPEC}, Binding: {}, Guest: {"epoch": 1}, Flavor: {"vcpus": 1, "ram_mb": 1, "disk_gb": 1}, Network: {}, SecurityGroup: {},
    Operation: {"kind": "stop", "project_id": "p", "user_id": "u", "request_id": "r"},
    Command: {"verb": "v", "operation_id": "o", "step": "s", "epoch": 1}, Aggregate: {},
}

WHAT = ("insert", "insert", "put", "put", "update", "update", "delete", "get", "find", "find", "page", "count", "update_where", "delete_where",
        "number", "reach", "fail")


def build(row_type: type[Row], drawn: dict[str, Any]) -> Row:
    values = {**BASE[row_type], **drawn}
    return row_type(**values)


@st.composite
def conditions(draw: Any, row_type: type[Row]) -> dict[str, Any]:
    columns = DRAWN[row_type]
    wanted: dict[str, Any] = {}
    for name in draw(st.lists(st.sampled_from(sorted(columns)), max_size=3, unique=True)):
        value = columns[name]
        plain = value.filter(lambda item: not isinstance(item, (list, dict)) and item is not None)
        scalar = not isinstance(draw(value), (list, dict, msgspec.Struct))
        if not scalar:
            wanted[name] = None
            continue
        wanted[name] = draw(st.one_of(
            plain.filter(lambda item: not isinstance(item, msgspec.Struct)) if name not in ("old_flavor", "fault") else st.none(), st.none(),
            *([st.lists(plain, max_size=3)] if name not in ("old_flavor", "fault") else []),
            *([st.builds(Op, st.sampled_from(["<", "<=", ">", ">=", "!="]), plain)] if name not in ("old_flavor", "fault") else []),
            st.just(Op("!=", None)), st.just(Op("like", "%b")) if name in ("name", "id", "host", "server_id") else st.none()))
    return wanted


@st.composite
def statements(draw: Any) -> tuple[str, type[Row], Any, Any]:
    row_type = draw(st.sampled_from(list(DRAWN)))
    columns = DRAWN[row_type]
    what = draw(st.sampled_from(WHAT))
    key = tuple(draw(columns[name]) for name in row_type.__key__)
    if what in ("insert", "put", "page"):
        row = build(row_type, draw(st.fixed_dictionaries(columns)))
        sort = [(name, draw(st.booleans())) for name in draw(st.lists(st.sampled_from(sorted(columns)), min_size=1, max_size=3, unique=True))]
        return what, row_type, row, (sort, draw(st.integers(0, 4)))
    if what in ("update", "update_where"):
        names = draw(st.lists(st.sampled_from(sorted(columns)), min_size=1, max_size=3, unique=True))
        changes = {name: draw(columns[name]) for name in names}
        if what == "update" and draw(st.integers(0, 9)) == 0:
            changes[next(name for name in columns if name not in row_type.__key__)] = None
        return what, row_type, changes, key if what == "update" else draw(conditions(row_type))
    if what in ("find", "count", "delete_where"):
        sort = [(name, draw(st.booleans())) for name in draw(st.lists(st.sampled_from(sorted(columns)), max_size=2, unique=True))]
        return what, row_type, draw(conditions(row_type)), (sort, draw(st.none() | st.integers(0, 3)))
    return what, row_type, key, None


class Stop(Exception):
    """A closure that gives up."""


def do(tx: Tx, what: str, row_type: type[Row], one: Any, two: Any) -> Any:
    """One statement, and its answer as something that can be compared."""
    if what == "page":
        return tx.find(row_type, sort=two[0], limit=two[1], after=one)
    if what in ("insert", "put"):
        try:
            return getattr(tx, what)(one)
        except Exists as taken:
            return taken.detail.partition(":")[0]
    if what in ("update", "update_where"):
        try:
            return tx.update(row_type, *two, **one) if what == "update" else tx.update_where(row_type, one, **two)
        except Exists as taken:
            return taken.detail.partition(":")[0]
    if what == "find":
        return tx.find(row_type, sort=two[0], limit=two[1], **one)
    if what in ("count", "delete_where"):
        return getattr(tx, what)(row_type, **one)
    if what == "number":
        return tx.next_number("n")
    if what == "fail":
        raise Stop
    row = tx.get(row_type, *one)
    if what == "delete":
        return tx.delete(row_type, *one)
    if what == "reach" and row is not None:  # what is done to a row in hand is not done to the database
        for name in row.__struct_fields__:
            held = getattr(row, name)
            if isinstance(held, dict):
                held["mine"] = 1
            elif isinstance(held, list):
                held.append("mine")
        setattr(row, next(name for name in DRAWN[row_type] if name not in row_type.__key__), None)
    return row


async def answers(db: Db, closures: list[list[Any]]) -> list[Any]:
    told: list[Any] = []
    for closure in closures:
        here: list[Any] = []

        def body(tx: Tx, closure: list[Any] = closure, here: list[Any] = here) -> None:
            for statement in closure:
                here.append(msgspec.to_builtins(do(tx, *statement)))

        try:
            await db.run(body)
        except Stop:
            here.append("stopped")
        told.append(here)
        told.append([msgspec.to_builtins(await db.read(lambda tx, t=row_type: tx.find(t))) for row_type in DRAWN])  # type: ignore[misc]
    return told


def env() -> Env:
    return Env("test", random.Random(1), lambda: 0.0, lambda: 0.0, threads=False)


def both(closures: list[list[Any]]) -> tuple[list[Any], list[Any]]:
    found = []
    for make in (SimDb, MemoryDb):
        here = env()
        db = make(here, Trace(here.now))
        found.append(asyncio.run(answers(db, closures)))
        db.close()
    return found[0], found[1]


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.lists(statements(), min_size=1, max_size=8), min_size=1, max_size=5))
def test_random_closures_have_the_same_answers_and_leave_the_same_rows(closures: list[list[Any]]) -> None:
    here, there = both(closures)
    for place, (one, other) in enumerate(zip(here, there, strict=True)):
        assert one == other, (place, closures[place // 2])


def test_values_take_the_types_their_columns_declare() -> None:
    row = Server("s", "p", "u", 7, SPEC, power_state=1.0, created_at=3, locked=1, metadata={"n": (1, 2)})  # type: ignore[arg-type, dict-item]
    found = []
    for make in (SimDb, MemoryDb):
        here = env()
        db = make(here, Trace(here.now))

        async def main(db: Db = db) -> Any:
            await db.run(lambda tx: tx.insert(msgspec.structs.replace(row, metadata={"n": "1"})))
            return await db.read(lambda tx: tx.get(Server, "s"))

        got = asyncio.run(main())
        found.append([(getattr(got, name), type(getattr(got, name)).__name__) for name in got.__struct_fields__])
    assert found[0] == found[1]
    kept = dict(zip(Server.__struct_fields__, found[1], strict=True))
    assert kept["name"] == ("7", "str") and kept["created_at"] == (3.0, "float") and kept["locked"] == (True, "bool")


def test_the_rules_of_the_database_are_read_from_its_schema() -> None:
    uniques = {unique.columns: unique.only for unique in plan_of(Binding).uniques}
    assert uniques == {("port_id",): Only("state", frozenset({"active"}))}
    assert {unique.columns for unique in plan_of(Flavor).uniques} == {("name",)}
    assert Only("state", frozenset({"running", "undoing"})) in {unique.only for unique in plan_of(Operation).uniques}
    partial = [index for facts in catalog().values() for index in facts.indexes if index.only is not None]
    assert len(partial) >= 8


def test_forked_tables_do_not_see_one_another() -> None:
    here = env()
    db = MemoryDb(here, Trace(here.now))

    async def main() -> None:
        await db.run(lambda tx: tx.insert(build(Flavor, {"id": "1", "name": "a"})))
        other = MemoryDb(here, Trace(here.now), db.tables.fork())
        await other.run(lambda tx: tx.update(Flavor, "1", name="b"))
        await db.run(lambda tx: tx.insert(build(Flavor, {"id": "2", "name": "b"})))
        assert await other.read(lambda tx: [row.name for row in tx.find(Flavor)]) == ["b"]
        assert await db.read(lambda tx: [row.name for row in tx.find(Flavor, sort=[("name", False)])]) == ["a", "b"]
        with pytest.raises(Exists, match=r"flavors\.name"):
            await db.run(lambda tx: tx.update(Flavor, "1", name="b"))

    asyncio.run(main())


def test_a_reader_that_wrote_is_refused_and_undone() -> None:
    here = env()
    db = MemoryDb(here, Trace(here.now))
    with pytest.raises(AssertionError, match="readonly"):
        asyncio.run(db.read(lambda tx: tx.next_number("n")))
    assert db.tables.counters == {}
