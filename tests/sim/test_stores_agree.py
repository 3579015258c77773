"""The same seed, whichever engine the store has: the same trace, to the last event. This is what lets most seeds run in memory."""
from __future__ import annotations

from typing import Any

import pytest
from click.testing import CliRunner

from virga.cli_sim import command
from virga.sim.explorer import Outcome, Plan, execute, founding_plan, workload_plan
from virga.store.memory import MemoryTx

SEEDS = 30


def told(outcome: Outcome) -> tuple[Any, ...]:
    return outcome.hash, outcome.steps, outcome.states, outcome.virtual_s, outcome.broken


@pytest.mark.parametrize("make", [founding_plan, workload_plan], ids=["founding", "workload"])
def test_both_engines_run_every_seed_alike(make: Any) -> None:
    differ = []
    hashes = set()
    for seed in range(500, 500 + SEEDS):
        plan: Plan = make(seed)
        memory, sqlite = execute(plan, store="memory"), execute(plan, store="sqlite")
        hashes.add(memory.hash)
        if told(memory) != told(sqlite):
            differ.append((seed, told(memory), told(sqlite)))
    assert differ == []
    assert len(hashes) == SEEDS


def test_an_engine_that_forgets_one_rule_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison can fail: rows handed out in another order change the trace."""
    plan = workload_plan(500)
    right = execute(plan, store="sqlite").hash
    find = MemoryTx.find
    monkeypatch.setattr(MemoryTx, "find", lambda self, row_type, **more: find(self, row_type, **more)[::-1])
    assert execute(plan, store="memory").hash != right


@pytest.mark.parametrize("store", ["mixed", "memory", "sqlite", "both"])
def test_the_command_takes_an_engine(store: str) -> None:
    done = CliRunner().invoke(command, ["--seeds", "2", "--kind", "founding", "--json", "--store", store])
    assert done.exit_code == 0, done.output
    assert f'"store": "{store}"' in done.output
