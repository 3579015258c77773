"""Schedules as streams of small numbers: who runs next when several callbacks are ready.

Owns: the policies of the simulator's loop (first in first out, by seed, recorded, scripted) and the walk
through all schedules.
Rules: a policy sees only how many callbacks are ready and answers with an index, 0 being the oldest; it
knows nothing of tasks, so a recording is a list of numbers that fits in a bug report and replays on another
machine.
Why not priorities or names: what a schedule needs to be is reproducible and enumerable; a policy that wants
more can be given the loop.
"""
from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple, Protocol


class SimulationError(RuntimeError):
    """The run cannot or may not go on; the message says why and names the tasks concerned."""


class Policy(Protocol):
    """Chooses which of the ready callbacks runs next."""

    def pick(self, ready_count: int) -> int:
        """An index in range(ready_count), 0 being the oldest. Called only when ready_count > 1."""


class Fifo:
    """Oldest first, as a stock asyncio loop does."""

    def pick(self, ready_count: int) -> int:
        return 0


class Seeded:
    """Uniformly at random from `seed`; an own source, so that draws from the Env never shift the schedule."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._random = random.Random(f"schedule {seed}").random

    def pick(self, ready_count: int) -> int:
        return int(self._random() * ready_count)


class Choice(NamedTuple):
    """One decision of a policy: `picked` out of range(`ready`)."""

    picked: int
    ready: int


class Recorded:
    """Asks another policy and keeps what it answered in `taken`."""

    def __init__(self, policy: Policy) -> None:
        self._pick = policy.pick
        self.taken: list[Choice] = []

    def pick(self, ready_count: int) -> int:
        index = self._pick(ready_count)
        self.taken.append(Choice(index, ready_count))
        return index


class Scripted:
    """Follows `script`, then `rest` (oldest first by default), and keeps every choice in `taken`.

    A script comes from `taken` of an earlier run of the same code. Raises SimulationError when it does not
    fit: the code under test has changed, or takes chance or time from elsewhere than its Env.
    """

    def __init__(self, script: Sequence[int], rest: Policy | None = None) -> None:
        self._script = tuple(script)
        self._rest = rest.pick if rest is not None else Fifo().pick
        self.taken: list[Choice] = []

    def pick(self, ready_count: int) -> int:
        place = len(self.taken)
        if place < len(self._script):
            index = self._script[place]
            if index >= ready_count:
                raise SimulationError(
                    f"replay does not fit: choice {place} of the script is {index} of {ready_count} ready")
        else:
            index = self._rest(ready_count)
        self.taken.append(Choice(index, ready_count))
        return index


def next_script(taken: Sequence[Choice]) -> list[int] | None:
    """The script after the one that led to `taken`, depth first; None when every schedule has been run."""
    for place in range(len(taken) - 1, -1, -1):
        if taken[place].picked + 1 < taken[place].ready:
            return [*(choice.picked for choice in taken[:place]), taken[place].picked + 1]
    return None
