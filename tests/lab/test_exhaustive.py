"""The exhaustive search: what it counts, that Kilo falls into the circular wait, that Virga falls into nothing, and that it would notice."""
from __future__ import annotations

import pytest

from virga.domain.server import Server
from virga.lab import kilo_rules as rules
from virga.lab import virga_model
from virga.lab.exhaustive import Line, search
from virga.lab.memory_tx import MemoryTx
from virga.lab.options import Options
from virga.lab.search import Search, TooBig
from virga.ops import procedure
from virga.sim.world import World
from virga.store.db import Tx


def test_schedules_are_counted_right() -> None:
    """Two independent things of two steps each: 6 orders, 9 states."""
    def moves(state: tuple[int, int]) -> list[tuple[str, tuple[int, int]]]:
        left, right = state
        return [("left", (left + 1, right))] * (left < 2) + [("right", (left, right + 1))] * (right < 2)

    found = Search(moves, lambda state: "", 100).run([(0, 0)])
    assert (found.states, found.schedules, found.endings) == (9, 6, {"": 6})
    assert len(found.examples[""]) == 4
    with pytest.raises(TooBig):
        Search(moves, lambda state: "", 5).run([(0, 0)])
    with pytest.raises(ValueError, match="circle"):
        Search(lambda state: [("round", 1 - state)], lambda state: "", 5).run([0])


def test_kilo_falls_into_the_circular_wait() -> None:
    found = search(Options(), 1, 0).found
    assert found.endings["circular wait"] > 0
    example = found.examples["circular wait"]
    assert "host_A reads DOWN" in example
    assert example.index("host_A reads DOWN") < example.index("update_device_up(host_A), port 0") < example.index("deadline: guest destroyed, ERROR")


@pytest.mark.parametrize("options", [
    Options(bind_first=True), Options(era=rules.KILO_1), Options(era=rules.REBIND_FIRST), Options(era=rules.REBIND_WAIT)])
def test_nobody_else_does(options: Options) -> None:
    assert not any("circular" in verdict for verdict in search(options, 1, 1).found.endings)


def test_no_wait_means_an_unwired_start_in_every_schedule() -> None:
    assert set(search(Options(era=rules.KILO_1), 1, 0).found.endings) == {"server ACTIVE, its port not", "guest ran before its port was wired"}


@pytest.mark.parametrize("ports", [1, 2])
def test_virga_has_no_failing_schedule(ports: int) -> None:
    found = search(Options(era=rules.VIRGA), ports, 0).found
    assert set(found.endings) == {""}
    assert found.states > 100 and found.schedules > 10**6


@pytest.mark.slow
@pytest.mark.parametrize("ports", [1, 2])
def test_virga_has_none_with_a_crash_either(ports: int) -> None:
    line: Line = search(Options(era=rules.VIRGA), ports, 1)
    assert set(line.found.endings) == {""}
    assert line.found.states > 10_000


def test_the_search_of_virga_would_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A revert that believes a wiring of any generation and lets host_A's guest go without waiting for host_B's end is caught."""
    revert = procedure.PROCEDURES["revert"]
    first, *rest = revert.steps
    hasty = procedure.StepDef(first.name, first.do, lambda run: procedure.good("not looked"), undo=first.undo, undone=first.undone, event=first.event)
    monkeypatch.setitem(procedure.PROCEDURES, "revert", procedure.Procedure("revert", (hasty, *rest), revert.cancelled, revert.stuck))
    endings = search(Options(era=rules.VIRGA), 1, 0).found.endings
    assert "two running copies" in endings


def test_memory_rows_have_every_method_of_the_stores_contract() -> None:
    """A new way to reach the database must not slip past the search: what touches the connection is answered here."""
    own = vars(MemoryTx)
    missing = [name for name, method in vars(Tx).items() if callable(method) and not name.startswith("__") and name not in own
               and "_connection" in method.__code__.co_names]
    assert missing == ["sql"]


def test_memory_rows_answer_as_the_real_store_does() -> None:
    """The same closures on both, after the same boot and resize."""
    rows, _ = virga_model.resized(2)
    world = World(0, 0)
    tx = MemoryTx(rows, world.env, 0.0)
    server = tx.find(Server)[0]
    server.tags.append("changed only here")
    assert tx.need(Server, server.id).tags == []
    assert tx.update(Server, server.id, name="new") == 1 and tx.update(Server, "none", name="x") == 0
    assert tx.count(Server, name="new") == 1 and tx.one(Server, name=["new", "old"]) is not None
    assert tx.done().key != rows.key and MemoryTx(rows, world.env, 0.0).need(Server, server.id).name != "new"
