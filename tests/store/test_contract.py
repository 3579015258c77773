"""What every engine of the store has to keep: the contract, run for each of them."""
from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.store.conftest import House

from virga.domain.operation import Guest, Operation
from virga.domain.placement import Claim
from virga.domain.server import Fault, FlavorSpec, Server
from virga.store.db import Exists, Op

FLAVOR = FlavorSpec("1", "small", 1, 512, 1, extra_specs={"a": "b"})


def server(server_id: str, **more: Any) -> Server:
    return Server(server_id, "p", "u", more.pop("name", "n"), FLAVOR, **more)


def test_a_row_comes_back_as_it_went_in(house: House) -> None:
    row = server("s", metadata={"k": "v"}, tags=["t"], config_drive=True, fault=Fault(500, "m", 1.5, "d"), old_flavor=FLAVOR, created_at=2.25)
    house.run(lambda tx: tx.insert(row))
    assert house.read(lambda tx: tx.get(Server, "s")) == row


def test_a_failed_closure_leaves_nothing_and_tells_nobody(house: House) -> None:
    def fails(tx: Any) -> None:
        tx.insert(server("s"))
        tx.hint("server:s")
        tx.emit("note", "a", "b", "never")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        house.run(fails)
    assert house.read(lambda tx: tx.get(Server, "s")) is None
    assert house.heard == [] and house.trace.count == 0


def test_a_failed_closure_does_not_take_its_neighbours_along(house: House) -> None:
    """Closures of one group commit are isolated from one another by savepoints."""
    def good(number: int) -> Any:
        return lambda tx: tx.insert(server(f"s{number}"))

    def bad(tx: Any) -> None:
        tx.insert(server("bad"))
        raise ValueError

    async def together() -> list[Any]:
        work = [house.db.run(bad if number == 5 else good(number)) for number in range(12)]
        return await asyncio.gather(*work, return_exceptions=True)

    results = house.wait(together())
    assert [type(result).__name__ for result in results].count("ValueError") == 1
    assert house.read(lambda tx: sorted(row.id for row in tx.find(Server))) == sorted(f"s{n}" for n in range(12) if n != 5)


def test_events_and_hints_go_out_after_the_commit_in_order(house: House) -> None:
    def closure(tx: Any) -> None:
        tx.hint("b", "a", "b")
        tx.emit("note", "x", "y", "first")
        tx.emit("note", "x", "y", "second")

    house.run(closure)
    assert house.heard == [["b", "a"]]
    assert [event.text for event in house.trace.events()] == ["first", "second"]


def test_a_taken_key_raises_exists_and_update_of_nothing_counts_zero(house: House) -> None:
    house.run(lambda tx: tx.insert(server("s")))
    with pytest.raises(Exists):
        house.run(lambda tx: tx.insert(server("s")))
    assert house.run(lambda tx: tx.update(Server, "nobody", name="x")) == 0
    assert house.run(lambda tx: tx.delete(Server, "nobody")) == 0


def test_the_database_itself_holds_one_operation_a_server(house: House) -> None:
    house.run(lambda tx: tx.insert(Operation("o1", "stop", "s", "p", "u", "r", 1)))
    with pytest.raises(Exists):
        house.run(lambda tx: tx.insert(Operation("o2", "start", "s", "p", "u", "r", 2)))
    house.run(lambda tx: tx.update(Operation, "o1", state="done"))
    house.run(lambda tx: tx.insert(Operation("o2", "start", "s", "p", "u", "r", 2)))


def test_what_a_transaction_has_written_it_reads(house: House) -> None:
    def closure(tx: Any) -> list[Any]:
        tx.insert(server("s"))
        seen = tx.get(Server, "s")
        tx.update(Server, "s", name="later", metadata={"x": "1"})
        again = tx.get(Server, "s")
        tx.update_where(Server, {"name": "last"}, project_id="p")
        last = tx.get(Server, "s").name
        tx.delete(Server, "s")
        return [seen.name, again.name, again.metadata, last, tx.get(Server, "s")]

    assert house.run(closure) == ["n", "later", {"x": "1"}, "last", None]


def test_who_has_a_row_keeps_it_as_it_was(house: House) -> None:
    """`update` never changes the object a caller got before."""
    def closure(tx: Any) -> tuple[str, str]:
        tx.insert(server("s"))
        before = tx.get(Server, "s")
        tx.update(Server, "s", name="later")
        return before.name, tx.get(Server, "s").name

    assert house.run(closure) == ("n", "later")


def test_conditions(house: House) -> None:
    def fill(tx: Any) -> None:
        for number in range(6):
            tx.insert(server(f"s{number}", name=f"n{number % 2}", host="h" if number < 2 else None, created_at=float(number)))

    house.run(fill)

    def ids(**conditions: Any) -> list[str]:
        return house.read(lambda tx: sorted(row.id for row in tx.find(Server, **conditions)))

    assert ids(host=None) == ["s2", "s3", "s4", "s5"]
    assert ids(host=Op("!=", None)) == ["s0", "s1"]
    assert ids(id=["s1", "s5", "zz"]) == ["s1", "s5"]
    assert ids(id=[]) == []
    assert ids(created_at=Op(">=", 4.0)) == ["s4", "s5"]
    assert ids(name=Op("like", "%1")) == ["s1", "s3", "s5"]
    assert ids(config_drive=False) == [f"s{number}" for number in range(6)]
    assert house.read(lambda tx: tx.count(Server, name="n1")) == 3
    with pytest.raises(AttributeError):
        ids(nonsense=1)


@pytest.mark.parametrize("descending", [False, True])
def test_pages_by_marker_meet_every_row_once_even_with_nulls(house: House, descending: bool) -> None:
    def fill(tx: Any) -> None:
        for number in range(9):
            tx.insert(server(f"s{number}", host=None if number % 3 == 0 else f"h{number % 2}"))

    house.run(fill)
    sort = [("host", descending), ("id", False)]
    seen: list[str] = []
    marker = None
    for _ in range(20):
        page = house.read(lambda tx, marker=marker: tx.find(Server, sort=sort, limit=2, after=marker))
        if not page:
            break
        seen += [row.id for row in page]
        marker = page[-1]
    assert len(seen) == 9 and sorted(seen) == [f"s{number}" for number in range(9)]
    assert seen == [row.id for row in house.read(lambda tx: tx.find(Server, sort=sort))]


def test_put_replaces_by_a_key_of_several_columns(house: House) -> None:
    house.run(lambda tx: tx.put(Claim("h", "o", "server", "s", 1, 2, 3)))
    house.run(lambda tx: tx.put(Claim("h", "o", "server", "s", 4, 5, 6)))
    assert house.read(lambda tx: [(claim.vcpus, claim.disk_gb) for claim in tx.find(Claim)]) == [(4, 6)]
    house.run(lambda tx: tx.put(Guest("s", "h", "running", 1)))
    assert house.run(lambda tx: tx.delete_where(Guest, server_id="s")) == 1


def test_numbers_never_repeat(house: House) -> None:
    numbers = [house.run(lambda tx: tx.next_number("x")) for _ in range(5)] + [house.run(lambda tx: tx.next_number("y"))]
    assert numbers == [1, 2, 3, 4, 5, 1]


def test_text_is_kept_whatever_it_holds(house: House) -> None:
    nasty = "quote ' \" \\ \u0000 \U0001F600 -- ; DROP TABLE servers"
    house.run(lambda tx: tx.insert(server("t", name=nasty)))
    assert house.read(lambda tx: tx.get(Server, "t").name) == nasty


def test_a_reader_cannot_write(house: House) -> None:
    if type(house.db).__name__ == "SimDb":
        pytest.skip("the simulated engine reads through its one connection")
    with pytest.raises(Exception, match="readonly"):
        house.read(lambda tx: tx.insert(server("s")))
