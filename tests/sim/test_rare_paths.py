"""Rare paths, each of which some seed has to take: a simulator that never goes there proves nothing about what is there.

Paths are known by the marks that shipping code sets (Env.mark) and by what the trace tells. A path that no seed of the first SEEDS takes fails here:
either the workload has grown too tame, or the path has become impossible and should go.
"""
from __future__ import annotations

import functools
import re

import pytest

from virga.ops.procedure import PROCEDURES
from virga.sim.loop import SimLoop
from virga.sim.plan import Plan, founding_plan, workload_plan
from virga.sim.runner import Runner, snapshot_of

SEEDS = 600

# `agent.loose_tap` is not among them: it takes a detach whose unplug fails and no kill before the next look; tests/agent/test_session.py takes it.
MARKS = ("agent.dropped_for_newer", "hub.result_after_reconnect", "agent.result_again")
TOLD = {
    "superseded by a delete": r"superseded: the server was deleted",
    "turned back by an administrator": r"turns back: an administrator",
    "a patient wait for a fence": r"waiting to be sure that nothing runs on",
    "no host has room": r"No valid host was found",
    "gave up at a deadline": r"gave up after",
    "a fenced host lets a move go on": r"is fenced",
    "an evacuation done": r"^evacuate done",
    "an orphan purged": r"^orphan$|^purge$",
    "the reconciler shows a guest that stopped by itself": r"^server is stopped, as its guest",
    "a controller killed": r"^kill -9$",
    "a host reconnected": r"hello, session 3",
}
# steps whose undo only these seeds' faults can reach; every other undo has a test of its own in tests/ops
UNDO = sorted({step.name for table in PROCEDURES.values() for step in table.steps if not isinstance(step.undo, str)})


def plans() -> list[Plan]:
    return [founding_plan(seed) if seed % 4 == 0 else workload_plan(seed) for seed in range(SEEDS)]


@functools.cache
def seen() -> tuple[dict[str, int], dict[str, int]]:
    """(marks, times each text of the trace was told, numbers and ids taken out), over all seeds."""
    marks: dict[str, int] = {}
    texts: dict[str, int] = {}
    for plan in plans():
        runner = Runner(plan, snapshot_of(plan.servers, plan.hosts), keep_events=True)
        runner.world.env.marks = marks

        async def main(runner: Runner = runner) -> None:
            await runner.main()
            runner.world.stop()

        SimLoop(plan.seed).run(main)
        runner.world.give_back()
        for event in runner.events:
            text = re.sub(r"[0-9a-f]{8}-[0-9a-f-]+", "ID", event.text)
            texts[text] = texts.get(text, 0) + 1
    return marks, texts


@pytest.mark.slow
@pytest.mark.parametrize("name", MARKS)
def test_marked_path_is_taken(name: str) -> None:
    assert seen()[0].get(name, 0) > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", TOLD)
def test_path_is_told(name: str) -> None:
    assert any(re.search(TOLD[name], text) for text in seen()[1])


@pytest.mark.slow
@pytest.mark.parametrize("step", UNDO)
def test_every_undo_is_taken(step: str) -> None:
    assert seen()[1].get(f"undo {step}", 0) > 0
