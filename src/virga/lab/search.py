"""Explicit-state search: every state reachable from a start, every schedule counted, a shortest example of each way to end.

Owns: the walk and the counting. A model gives `moves(state)`, the named moves possible in a state with what they lead to, and `verdict(state)`, how a run
that ends there has ended ('' is well). States are hashable values; two equal ones are one.
Rules: a schedule is a way from the start to a state without moves. Its number is counted on the graph of states, which has no circle (each message is
taken once, each crash happens once; a circle raises), so billions of schedules cost no more than the states they share.
"""
from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from typing import Generic, TypeVar

import msgspec

S = TypeVar("S", bound=Hashable)


class TooBig(RuntimeError):
    """More states than the stated bound: nothing is claimed then."""


class Found(msgspec.Struct):
    """What a search found. `endings` counts schedules by verdict; `examples` has the moves of a shortest one of each."""

    states: int
    moves: int
    schedules: int
    endings: dict[str, int]
    examples: dict[str, list[str]]
    end_states: dict[str, int]

    @property
    def failing(self) -> int:
        return sum(count for verdict, count in self.endings.items() if verdict)


class Search(Generic[S]):
    """Breadth first, so that the examples are shortest ones."""

    def __init__(self, moves: Callable[[S], list[tuple[str, S]]], verdict: Callable[[S], str], limit: int) -> None:
        self.moves, self.verdict, self.limit = moves, verdict, limit

    def run(self, starts: Iterable[S]) -> Found:
        """Raises TooBig, and ValueError if the graph has a circle."""
        number: dict[S, int] = {}
        came: list[tuple[int, str]] = []
        after: list[list[int]] = []
        ends: dict[int, str] = {}
        queue: deque[S] = deque()

        def know(state: S, origin: int, name: str) -> int:
            known = number.get(state)
            if known is None:
                known = number[state] = len(number)
                if known >= self.limit:
                    raise TooBig(f"more than {self.limit} states")
                came.append((origin, name))
                after.append([])
                queue.append(state)
            return known

        roots = [know(state, -1, "") for state in starts]
        while queue:
            state = queue.popleft()
            here = number[state]
            moves = self.moves(state)
            if not moves:
                ends[here] = self.verdict(state)
            for name, following in moves:
                there = know(following, here, name)
                after[here].append(there)
        counts = self._count(after, roots)
        endings: dict[str, int] = {}
        end_states: dict[str, int] = {}
        examples: dict[str, list[str]] = {}
        for place, verdict in ends.items():
            endings[verdict] = endings.get(verdict, 0) + counts[place]
            end_states[verdict] = end_states.get(verdict, 0) + 1
            examples.setdefault(verdict, self._way(came, place))
        order = sorted(endings)
        return Found(len(number), sum(map(len, after)), sum(endings.values()), {verdict: endings[verdict] for verdict in order},
                     examples, {verdict: end_states[verdict] for verdict in order})

    @staticmethod
    def _count(after: list[list[int]], roots: list[int]) -> list[int]:
        """The number of ways to each state (topological order)."""
        incoming = [0] * len(after)
        for following in after:
            for there in following:
                incoming[there] += 1
        ways = [0] * len(after)
        for root in roots:
            ways[root] += 1
        ready = [place for place, count in enumerate(incoming) if not count]
        done = 0
        while ready:
            here = ready.pop()
            done += 1
            for there in after[here]:
                ways[there] += ways[here]
                incoming[there] -= 1
                if not incoming[there]:
                    ready.append(there)
        if done != len(after):
            raise ValueError("the graph of states has a circle: schedules cannot be counted")
        return ways

    @staticmethod
    def _way(came: list[tuple[int, str]], place: int) -> list[str]:
        names: list[str] = []
        while came[place][0] >= 0:
            origin, name = came[place]
            names.append(name)
            place = origin
        return names[::-1]
