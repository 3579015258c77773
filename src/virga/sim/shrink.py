"""Shrinking: the shortest plan, by leaving entries out, that still breaks the same rule.

Halves are tried first, then ever smaller runs of entries, down to one (delta debugging); each try is a whole run, so `tries` bounds the time.
"""
from __future__ import annotations

import msgspec

from virga.ops.engine import Engine
from virga.sim.plan import Plan
from virga.sim.runner import execute


def shrink(plan: Plan, rule: str, *, engine: type[Engine] = Engine, tries: int = 400) -> Plan:
    """The shortest plan found that breaks `rule` as `plan` does."""
    best = plan
    size = max(1, len(best.entries) // 2)
    while tries > 0:
        at = 0
        smaller = False
        while at < len(best.entries) and tries > 0:
            tries -= 1
            trial = msgspec.structs.replace(best, entries=best.entries[:at] + best.entries[at + size:])
            if execute(trial, engine=engine).rule == rule:
                best, smaller = trial, True
            else:
                at += size
        if size == 1 and not smaller:
            break
        size = max(1, size // 2)
    return best
