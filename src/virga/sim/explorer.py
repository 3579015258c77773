"""Seeds in, broken invariants out: the names other rooms use of the simulator's explorer.

plan.py draws what happens from the seed; faults.py breaks and mends; people.py asks; model.py knows what must come of it; runner.py runs one plan to
its judgement; shrink.py finds the shortest plan that breaks the same rule. Same seed, same code: same trace hash.
"""
from __future__ import annotations

from virga.sim.plan import Entry, Plan, founding_plan, workload_plan
from virga.sim.runner import SNAPSHOTS, Outcome, execute, prepare, snapshot_of
from virga.sim.shrink import shrink

__all__ = ["SNAPSHOTS", "Entry", "Outcome", "Plan", "execute", "founding_plan", "prepare", "shrink", "snapshot_of", "workload_plan"]
