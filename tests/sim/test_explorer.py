"""The simulator judged: honest seeds hold, the same seed repeats, and a bug planted on purpose is found and shrunk."""
from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Collection

import pytest

from virga.ops.engine import Engine
from virga.sim.explorer import execute, founding_plan, shrink, workload_plan

SEEDS = 40


class EdgeEngine(Engine):
    """The planted bug: a waiter is woken by a message or not at all. Facts that came while nobody listened are never looked at."""

    def _heard(self, hints: Collection[str]) -> None:
        super()._heard(hints)
        self._deadlines.clear()

    async def scan(self) -> None:
        before = dict(self._dirty)
        await super().scan()
        self._dirty = before


@pytest.mark.parametrize("kind", ["founding", "workload"])
def test_honest_seeds_hold(kind: str) -> None:
    make = founding_plan if kind == "founding" else workload_plan
    broken = [(seed, outcome.broken) for seed in range(SEEDS) if (outcome := execute(make(seed))).broken]
    assert broken == []


def test_founding_case_without_faults_keeps_every_server() -> None:
    assert execute(founding_plan(1, faults=False)).states == {"active": 5}


def test_same_seed_same_trace_whatever_the_hash_seed() -> None:
    program = (
        "from virga.sim.explorer import *\n"
        "print(execute(founding_plan(3)).hash, execute(workload_plan(4)).hash, execute(workload_plan(5)).hash)\n")
    outputs = set()
    for hash_seed in ("0", "1", "77"):
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True,
                              env={**os.environ, "PYTHONHASHSEED": hash_seed})
        outputs.add(done.stdout)
    assert len(outputs) == 1
    hashes = outputs.pop().split()
    assert len(set(hashes)) == 3


def test_edge_triggered_waits_are_found_and_shrunk() -> None:
    for seed in range(400):
        plan = founding_plan(seed)
        outcome = execute(plan, engine=EdgeEngine)
        if outcome.broken:
            break
    else:
        pytest.fail("the planted bug was not found in 400 seeds")
    shortest = shrink(plan, outcome.rule, engine=EdgeEngine)
    assert 0 < len(shortest.entries) <= 4, shortest.entries
    assert execute(shortest, engine=EdgeEngine).rule == outcome.rule
    assert execute(shortest).broken == ""
