"""`virga race`: many seeds of one era or of all, counted.

Owns: the totals, the table and the JSON of a race. The table holds only what the seeds decide, so the same seeds give the same table on every machine;
how fast this machine was is told below it.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import msgspec

from virga.lab import kilo_rules as rules
from virga.lab.founding import Plan, Result, run_kilo
from virga.lab.options import Options
from virga.lab.virga_cloud import run_virga

T = TypeVar("T", bound="Totals")
VIF_FAULT = "Virtual Interface creation failed"


class Totals(msgspec.Struct):
    """One line of the table. `core_s` is this machine's, seconds of one core; everything else is the seeds'."""

    name: str
    schedules: int = 0
    founding_cases: int = 0
    reverts: int = 0
    active: int = 0
    error: int = 0
    vif_errors: int = 0
    stuck: int = 0
    decided_to_wait: int = 0
    full_timeouts: int = 0
    unwired_s: float = 0.0
    disks_lost: int = 0
    hit: int = 0
    virtual_s: float = 0.0
    core_s: float = 0.0

    def add(self, result: Result) -> None:
        self.schedules += 1
        self.founding_cases += result.founding_cases
        self.virtual_s += result.virtual_s
        for revert in result.reverts:
            self.reverts += 1
            self.active += revert.outcome == "active"
            self.error += revert.outcome == "error"
            self.vif_errors += revert.outcome == "error" and revert.fault == VIF_FAULT
            self.stuck += revert.outcome not in ("active", "error")
            self.decided_to_wait += revert.decided_to_wait
            self.full_timeouts += revert.timed_out
            self.unwired_s += revert.unwired_s
            self.disks_lost += revert.disk_lost
            self.hit += revert.timed_out or revert.outcome != "active"

    @property
    def share_hit(self) -> float:
        return self.hit / self.reverts if self.reverts else 0.0


def run_one(seed: int, options: Options, plan: Plan) -> Result:
    return run_virga(seed, plan)[0] if options.era == rules.VIRGA else run_kilo(seed, options, plan)[0]


def race(options: Options, plan: Plan, seeds: range, clock: Callable[[], float]) -> Iterator[Totals]:
    """Yields the same totals after every seed. `clock` counts seconds of one core."""
    totals = Totals(options.name)
    began = clock()
    for seed in seeds:
        totals.add(run_one(seed, options, plan))
        totals.core_s = clock() - began
        yield totals


def compared() -> list[Options]:
    """Every era, and the first one with each remedy."""
    first = Options()
    remedies = [first, msgspec.structs.replace(first, nonfatal=True), msgspec.structs.replace(first, bind_first=True)]
    return remedies + [Options(era=era) for era in rules.ALL_ERAS if era != first.era]


COLUMNS: tuple[tuple[str, Callable[[Totals], str]], ...] = (
    ("era and switches", lambda line: line.name),
    ("reverts", lambda line: f"{line.reverts}"),
    ("ACTIVE", lambda line: f"{line.active}"),
    ("ERROR", lambda line: f"{line.error}"),
    ("of them VirtualInterface-\nCreateException", lambda line: f"{line.vif_errors}"),
    ("stuck", lambda line: f"{line.stuck}"),
    ("full-timeout\nwaits", lambda line: f"{line.full_timeouts}"),
    ("guest-seconds\nunwired", lambda line: f"{line.unwired_s:.1f}"),
    ("disks\nlost", lambda line: f"{line.disks_lost}"),
    ("reverts\nhit", lambda line: f"{line.share_hit:.1%}"),
)


def table(lines: Sequence[T], columns: Sequence[tuple[str, Callable[[T], str]]] = COLUMNS) -> str:
    """Plain text, the first column left, numbers right."""
    heads = [name.split("\n") for name, _ in columns]
    depth = max(map(len, heads))
    grid = [[("" if place < depth - len(head) else head[place - depth + len(head)]) for head in heads] for place in range(depth)]
    body = [[show(line) for _, show in columns] for line in lines]
    widths = [max(len(row[place]) for row in grid + body) for place in range(len(columns))]

    def laid(row: list[str]) -> str:
        return "  ".join(cell.ljust(width) if place == 0 else cell.rjust(width) for place, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip()

    return "\n".join([*(laid(row) for row in grid), "  ".join("-" * width for width in widths), *(laid(row) for row in body)])


def speeds(lines: list[Totals]) -> str:
    """How fast it went here; not part of the table, because it is not the seeds' doing."""
    width = max(len(line.name) for line in lines)
    return "\n".join(
        f"{line.name.ljust(width)}  {line.founding_cases / line.core_s:7.1f} founding-case schedules per core-second, "
        f"virtual:real time {line.virtual_s / line.core_s:,.0f}:1"
        for line in lines if line.core_s > 0)


def as_json(lines: list[Totals], plan: Plan, seeds: range) -> dict[str, Any]:
    return {"plan": msgspec.to_builtins(plan), "seeds": [seeds.start, seeds.stop - 1],
            "eras": [{**msgspec.to_builtins(line), "share_hit": line.share_hit} for line in lines]}
