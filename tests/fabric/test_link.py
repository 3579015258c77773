"""The in-memory link keeps a connection's promises: order, one end of it all, nothing after it."""
from __future__ import annotations

import random
from typing import Any

import pytest

from virga.fabric.link import memory_pair
from virga.fabric.wire import Ack
from virga.runtime.env import sim_env
from virga.sim.loop import SimLoop
from virga.sim.world import Weather


def talk(weather: Weather | None, story: Any, seed: int = 1) -> Any:
    import asyncio

    async def main() -> Any:
        return await story(*memory_pair(asyncio.get_running_loop(), weather), sim_env(seed))

    return SimLoop(seed).run(main)


@pytest.mark.parametrize("seed", range(20))
def test_frames_arrive_in_order_whatever_the_weather(seed: int) -> None:
    async def story(left: Any, right: Any, env: Any) -> list[int]:
        got: list[int] = []
        right.start(lambda frame: got.append(frame.number), lambda: None)
        for number in range(50):
            left.send(Ack(number))
            if number % 7 == 0:
                await env.sleep(0.001)
        await env.sleep(5.0)
        return got

    weather = Weather(random.Random(seed), 0.01)
    weather.duplicate_share = 0.3
    got: list[int] = talk(weather, story, seed)
    assert got == sorted(got) and set(got) == set(range(50)), "duplicates come right behind, nothing is overtaken or lost"


def test_frames_sent_before_anybody_listens_are_kept() -> None:
    async def story(left: Any, right: Any, env: Any) -> list[int]:
        got: list[int] = []
        left.send(Ack(1))
        await env.sleep(1.0)
        right.start(lambda frame: got.append(frame.number), lambda: None)
        return got

    assert talk(None, story) == [1]


def test_both_ends_are_told_once_of_the_end_and_nothing_arrives_after_it() -> None:
    async def story(left: Any, right: Any, env: Any) -> tuple[list[str], list[Any]]:
        told: list[str] = []
        got: list[Any] = []
        left.start(got.append, lambda: told.append("left"))
        right.start(got.append, lambda: told.append("right"))
        left.send(Ack(1))
        left.close()
        right.close()
        right.send(Ack(2))
        await env.sleep(1.0)
        return sorted(told), got

    assert talk(None, story) == (["left", "right"], [])


def test_a_cut_path_breaks_the_link_at_the_next_frame() -> None:
    async def story(left: Any, right: Any, env: Any) -> tuple[bool, bool]:
        left.send(Ack(1))
        await env.sleep(1.0)
        return left.open, right.open

    weather = Weather(random.Random(1), 0.01)
    weather.cut = True
    assert talk(weather, story) == (False, False)
