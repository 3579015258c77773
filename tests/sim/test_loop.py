"""The virtual-time loop: same picks, same run; time jumps; a stuck run names its tasks."""
from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from virga.runtime.env import Killed, sim_env
from virga.sim import loop as loop_module
from virga.sim.loop import (
    Deadlock,
    Fifo,
    Recorded,
    Scripted,
    Seeded,
    SimLoop,
    SimulationError,
    TooManySteps,
    TooMuchTime,
    next_script,
    run,
)


async def _race(workers: int = 6, turns: int = 5) -> str:
    """Workers that write their letter each turn: the text is the schedule."""
    written: list[str] = []

    async def work(letter: str) -> None:
        for _ in range(turns):
            written.append(letter)
            await asyncio.sleep(0)

    await asyncio.gather(*(work("abcdefghij"[i]) for i in range(workers)))
    return "".join(written)


# order ----------------------------------------------------------------------------------------------------
def test_same_seed_same_order() -> None:
    assert run(_race, 7) == run(_race, 7)


def test_different_seeds_give_different_orders() -> None:
    orders = {run(_race, seed) for seed in range(50)}
    assert len(orders) == 50


def test_fifo_is_the_order_of_a_stock_loop() -> None:
    assert run(_race, policy=Fifo()) == asyncio.run(_race()) == "abcdef" * 5


def test_draws_from_the_env_do_not_shift_the_schedule() -> None:
    async def main(draws: int) -> str:
        env = sim_env(3)
        for _ in range(draws):
            env.rng.random()
        return await _race()

    assert run(main(0), 3) == run(main(100), 3)


def test_same_seed_same_order_in_another_process_whatever_the_hash_seed() -> None:
    program = (
        "import asyncio\n"
        "from virga.sim.loop import run\n"
        "async def main():\n"
        "    seen = []\n"
        "    async def work(i):\n"
        "        try:\n"
        "            await asyncio.sleep(100 if i else 1)\n"
        "            raise ValueError\n"
        "        finally:\n"
        "            seen.append(i)\n"
        "    junk = [object() for _ in range(id(seen) // 64 % 997)]\n"
        "    try:\n"
        "        async with asyncio.TaskGroup() as group:\n"
        "            for i in range(30):\n"
        "                group.create_task(work(i))\n"
        "    except* ValueError:\n"
        "        pass\n"
        "    waiting = [asyncio.ensure_future(work(i)) for i in range(1, 20)]\n"
        "    done, pending = await asyncio.wait(waiting, timeout=5)\n"
        "    for task in pending:\n"
        "        task.cancel()\n"
        "    await asyncio.gather(*waiting, return_exceptions=True)\n"
        "    return seen\n"
        "print(run(main, 11))\n"
    )
    outputs = set()
    for hash_seed in ("0", "1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True,
            env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": ":".join(p for p in sys.path if p)},
        )
        outputs.add(done.stdout)
    assert len(outputs) == 1
    assert outputs != {""}


def test_a_recording_replays_without_the_seed() -> None:
    recorded = Recorded(Seeded(5))
    first = run(_race, policy=recorded)
    replay = Scripted([choice.picked for choice in recorded.taken])
    assert run(_race, policy=replay) == first
    assert replay.taken == recorded.taken


def test_a_script_that_does_not_fit_says_so() -> None:
    with pytest.raises(SimulationError, match="replay does not fit: choice 0 of the script is 99 of 6 ready"):
        run(_race, policy=Scripted([99]))


def test_every_schedule_of_a_small_program_can_be_enumerated() -> None:
    async def main() -> str:
        written: list[str] = []
        loop = asyncio.get_running_loop()
        done = loop.create_future()

        def write(letter: str) -> None:
            written.append(letter)
            if len(written) == 3:
                done.set_result(None)

        for letter in "abc":
            loop.call_soon(write, letter)
        await done
        return "".join(written)

    seen: list[str] = []
    script: list[int] | None = []
    while script is not None:
        policy = Scripted(script)
        seen.append(run(main, policy=policy))
        script = next_script(policy.taken)
        assert len(seen) < 100
    assert seen == ["abc", "acb", "bac", "bca", "cab", "cba"]


def test_the_pick_is_asked_only_where_there_is_a_choice() -> None:
    async def main() -> None:
        for _ in range(20):
            await asyncio.sleep(1)

    recorded = Recorded(Seeded(1))
    run(main, policy=recorded)
    assert recorded.taken == []


# time -----------------------------------------------------------------------------------------------------
def test_time_jumps_and_costs_nothing() -> None:
    async def main() -> float:
        await asyncio.sleep(86400 * 30)
        return asyncio.get_running_loop().time()

    began = time.monotonic()
    assert run(main) == 86400 * 30
    assert time.monotonic() - began < 1


def test_timers_run_in_order_of_time() -> None:
    async def main() -> list[int]:
        seen: list[int] = []

        async def work(i: int) -> None:
            await asyncio.sleep(i)
            seen.append(i)

        await asyncio.gather(*(work(i) for i in (5, 3, 9, 1)))
        return seen

    assert all(run(main, seed) == [1, 3, 5, 9] for seed in range(20))


def test_timers_a_rounding_error_apart_are_a_race() -> None:
    async def main() -> str:
        seen: list[str] = []
        loop = asyncio.get_running_loop()
        loop.call_at(0.1 + 0.2, seen.append, "a")
        loop.call_at(0.3, seen.append, "b")
        await asyncio.sleep(1)
        return "".join(seen)

    assert {run(main, seed) for seed in range(20)} == {"ab", "ba"}


def test_sleeping_until_a_deadline_ends() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + 0.1 + 0.2
        loop.call_at(0.3 - 1e-10, lambda: None)
        while loop.time() < deadline:
            await asyncio.sleep(deadline - loop.time())
        return loop.time()

    simulated = SimLoop(1)
    assert simulated.run(main) == pytest.approx(0.3)
    assert simulated.steps < 20


def test_env_follows_the_virtual_clock() -> None:
    async def main() -> tuple[float, float]:
        env = sim_env(1)
        began, before = env.now(), env.monotonic()
        await env.sleep(60)
        return env.now() - began, env.monotonic() - before

    assert run(main) == (60, 60)


def test_waiting_to_be_woken_ends_at_the_call_or_at_the_limit_and_leaves_no_timer() -> None:
    async def main() -> tuple[float, float, bool]:
        env, wake = sim_env(1), asyncio.Event()
        asyncio.get_running_loop().call_later(5, wake.set)
        await env.wait_woken(wake, 60)
        called = env.monotonic()
        wake.clear()
        await env.wait_woken(wake, 10)
        limit = env.monotonic()
        wake.clear()
        await env.sleep(100)
        return called, limit - called, wake.is_set()

    assert run(main) == (5, 10, False)


def test_cancelled_timers_do_not_pile_up() -> None:
    async def main() -> int:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimLoop)
        for _ in range(10_000):
            async with asyncio.timeout(3600):
                await asyncio.sleep(0)
        return len(loop._timers)

    simulated = SimLoop(1)
    assert simulated.run(main) < 300
    assert simulated.time() == 0


# the end of a run -----------------------------------------------------------------------------------------
def test_deadlock_names_the_tasks_and_where_they_wait() -> None:
    async def wait_for_row() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        stuck = asyncio.create_task(wait_for_row(), name="engine/revert")
        asyncio.current_task().set_name("test")  # type: ignore[union-attr]
        await asyncio.sleep(2.5)
        await stuck

    with pytest.raises(Deadlock) as caught:
        run(main)
    text = str(caught.value)
    assert "deadlock at virtual time 2.500000 s" in text
    assert "engine/revert: at sim/test_loop.py:" in text
    assert "wait_for_row, in Event.wait" in text
    assert "main, for task engine/revert" in text


def test_two_locks_taken_in_opposite_order_deadlock_under_some_seed_only() -> None:
    async def main() -> None:
        one, two = asyncio.Lock(), asyncio.Lock()

        async def take(first: asyncio.Lock, second: asyncio.Lock) -> None:
            async with first:
                await asyncio.sleep(0)
                async with second:
                    pass

        await asyncio.gather(take(one, two), take(two, one))

    ends = {"fine": 0, "deadlock": 0}
    for seed in range(60):
        try:
            run(main, seed)
            ends["fine"] += 1
        except Deadlock:
            ends["deadlock"] += 1
    assert ends["fine"] > 0 and ends["deadlock"] > 0, ends


def test_a_spinning_task_is_stopped_and_named() -> None:
    async def spin() -> None:
        while True:
            await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.create_task(spin(), name="spinner")

    with pytest.raises(TooManySteps, match=r"1000 steps .*Ready to run: spinner \(at sim/test_loop.py"):
        run(main, max_steps=1000)


def test_an_endless_retry_is_stopped_and_named() -> None:
    async def main() -> None:
        while True:
            await asyncio.sleep(10)

    with pytest.raises(TooMuchTime, match=r"set for virtual time 110\.0+ s, beyond the limit of 100\.0+ s"):
        run(main, max_time_s=100)


def test_what_main_left_behind_is_cancelled() -> None:
    ended: list[str] = []

    async def background() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(1)
            ended.append("background")

    async def main() -> str:
        asyncio.create_task(background())  # noqa: RUF006
        await asyncio.sleep(0)
        return "result"

    assert run(main) == "result"
    assert ended == ["background"]


def test_a_task_that_will_not_go_is_an_error() -> None:
    async def stubborn() -> None:
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                pass

    async def main() -> None:
        asyncio.create_task(stubborn(), name="stubborn")  # noqa: RUF006
        await asyncio.sleep(0.1)

    with pytest.raises(Deadlock, match=r"stubborn: at sim/test_loop\.py"):
        run(main)


def test_the_error_of_main_is_raised_and_wins_over_the_clean_up() -> None:
    async def main() -> None:
        async def stubborn() -> None:
            try:
                await asyncio.sleep(100)
            finally:
                await asyncio.Event().wait()

        asyncio.create_task(stubborn())  # noqa: RUF006
        await asyncio.sleep(0.1)
        raise KeyError("main's own")

    with pytest.raises(KeyError, match="main's own"):
        run(main)


def test_a_failing_callback_ends_the_run() -> None:
    async def main() -> None:
        asyncio.get_running_loop().call_later(1, lambda: 1 // 0)
        await asyncio.sleep(100)

    with pytest.raises(ZeroDivisionError):
        run(main)


def test_an_exception_nobody_took_is_kept_but_for_a_kill() -> None:
    async def main() -> None:
        async def fails(error: BaseException) -> None:
            raise error

        tasks = [asyncio.create_task(fails(KeyError("lost"))), asyncio.create_task(fails(Killed("host-1")))]
        await asyncio.sleep(1)
        assert all(task.done() for task in tasks)

    simulated = SimLoop(1)
    simulated.run(main)
    gc.collect()
    assert [str(context["exception"]) for context in simulated.unhandled] == ["'lost'"]


def test_an_env_killed_stops_its_tasks() -> None:
    async def main() -> list[int]:
        env = sim_env(1)
        child = env.child("host-1")
        beats: list[int] = []

        async def beat() -> None:
            while True:
                await child.sleep(1)
                beats.append(1)

        child.spawn(beat(), "beat")
        await env.sleep(5.5)
        child.kill()
        await env.sleep(50)
        return beats

    assert len(run(main)) == 5


# refusals -------------------------------------------------------------------------------------------------
async def _thread() -> None:
    await asyncio.to_thread(time.time)


async def _connect() -> None:
    await asyncio.open_connection("127.0.0.1", 1)


async def _listen() -> None:
    await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)


async def _process() -> None:
    await asyncio.create_subprocess_exec("true")


@pytest.mark.parametrize("main", [_thread, _connect, _listen, _process])
def test_the_outside_is_refused(main: Any) -> None:
    with pytest.raises(SimulationError, match="is not possible under virtual time"):
        run(main)


def test_another_thread_cannot_call_in() -> None:
    async def main() -> list[str]:
        simulated = asyncio.get_running_loop()
        said: list[str] = []

        def intrude() -> None:
            try:
                simulated.call_soon_threadsafe(print)
            except SimulationError as error:
                said.append(str(error))

        thread = threading.Thread(target=intrude)
        thread.start()
        thread.join()
        simulated.call_soon_threadsafe(said.append, "inline")
        await asyncio.sleep(0.1)
        return said

    said = run(main)
    assert said[0].startswith("call_soon_threadsafe from another thread is not possible")
    assert said[1:] == ["inline"]


def test_a_run_inside_a_run_is_refused_and_leaves_nothing_behind() -> None:
    async def inner() -> None:
        raise AssertionError("never run")

    async def main() -> None:
        with pytest.raises(RuntimeError, match="already running here"):
            run(inner())

    run(main)
    gc.collect()


# asyncio's own tools --------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(5))
def test_queue_lock_semaphore_event_condition(seed: int) -> None:
    async def main() -> tuple[int, int]:
        queue: asyncio.Queue[int] = asyncio.Queue(3)
        lock, gate, room = asyncio.Lock(), asyncio.Event(), asyncio.Semaphore(2)
        changed = asyncio.Condition()
        inside, total = [0, 0], [0]

        async def produce() -> None:
            await gate.wait()
            for i in range(10):
                await queue.put(i)

        async def consume() -> None:
            while True:
                item = await queue.get()
                async with room:
                    inside[0] += 1
                    inside[1] = max(inside)
                    await asyncio.sleep(0.01)
                    inside[0] -= 1
                async with lock:
                    before = total[0]
                    await asyncio.sleep(0)
                    total[0] = before + item
                async with changed:
                    changed.notify_all()
                queue.task_done()

        async with asyncio.TaskGroup() as group:
            consumers = [group.create_task(consume()) for _ in range(4)]
            for _ in range(2):
                group.create_task(produce())
            asyncio.get_running_loop().call_later(1, gate.set)
            async with changed:
                await changed.wait_for(lambda: total[0] == 90)
            await queue.join()
            for consumer in consumers:
                consumer.cancel()
        return total[0], inside[1]

    assert run(main, seed) == (90, 2)


@pytest.mark.parametrize("seed", range(5))
def test_timeouts_shield_wait_gather(seed: int) -> None:
    async def main() -> float:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.sleep(86400), 300)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3600):
                await asyncio.sleep(86400)
        slow = asyncio.create_task(asyncio.sleep(10, "slow"))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(slow), 1)
        assert await slow == "slow"
        done, pending = await asyncio.wait(
            [asyncio.create_task(asyncio.sleep(i)) for i in (1, 2, 3)],
            return_when=asyncio.FIRST_COMPLETED)
        assert (len(done), len(pending)) == (1, 2)
        results = await asyncio.gather(asyncio.sleep(1, "a"), asyncio.sleep(0, 1), return_exceptions=True)
        assert results == ["a", 1]
        return asyncio.get_running_loop().time()

    assert run(main, seed) == 300 + 3600 + 10 + 1 + 1


def test_a_task_group_cancels_the_rest_when_one_fails() -> None:
    async def main() -> int:
        cancelled = 0

        async def wait() -> None:
            nonlocal cancelled
            try:
                await asyncio.sleep(100)
            except asyncio.CancelledError:
                cancelled += 1
                raise

        async def fail() -> None:
            await asyncio.sleep(1)
            raise ValueError

        with pytest.raises(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                for _ in range(3):
                    group.create_task(wait())
                group.create_task(fail())
        return cancelled

    assert run(main) == 3


def test_a_dropped_async_generator_is_closed() -> None:
    closed: list[int] = []

    async def count() -> AsyncIterator[int]:
        try:
            for i in range(10):
                yield i
        finally:
            await asyncio.sleep(1)
            closed.append(1)

    async def main() -> None:
        async for i in count():
            if i == 3:
                break
        gc.collect()
        await asyncio.sleep(2)

    run(main)
    assert closed == [1]


# what we lean on ------------------------------------------------------------------------------------------
def test_the_private_names_of_asyncio_exist() -> None:
    async def main() -> None:
        handle = asyncio.get_running_loop().call_soon(print)
        task = asyncio.create_task(asyncio.sleep(0))
        loop = asyncio.get_running_loop()
        for owner, name in loop_module.PRIVATE_NAMES:
            assert hasattr({"Task": task}[owner], name), f"this Python's asyncio.{owner} has no {name}"
        # our handles have every public method of the stock ones but the context's
        for ours, stock in ((handle, asyncio.Handle), (loop.call_later(1.0, print), asyncio.TimerHandle)):
            assert {name for name in dir(stock) if not name.startswith("_")} - {"get_context"} <= set(dir(ours))
        assert loop.call_later(1.0, print).when() == 1.0
        assert not handle.cancelled()
        handle.cancel()
        assert handle.cancelled()
        await task

    run(main)


def test_cancelling_a_timer_tells_the_loop() -> None:
    async def main() -> int:
        simulated = asyncio.get_running_loop()
        assert isinstance(simulated, SimLoop)
        simulated.call_later(5, print).cancel()
        return simulated._timers_cancelled

    assert run(main) == 1


@pytest.mark.slow
def test_it_is_quick() -> None:
    """Trivial callbacks a CPU second: 400 000 and more on a free core; the floor is for a busy one."""
    simulated = SimLoop(1)
    began = time.process_time()
    simulated.run(_race(10, 20_000))
    assert simulated.steps / (time.process_time() - began) > 100_000
