"""Env: the only door to time, chance, tasks and threads.

Owns: the clock, sleeping, random numbers, ids, task spawning, off-loading of slow pure work, and named fault points.
Rules: every long-lived object takes an Env; nobody else may import time, random, uuid, secrets or threading (a test says so).
An Env belongs to one *process* of the cloud (a controller, one host's agent). `child()` makes the Env of another process in the same
loop; `kill()` is its kill -9: its tasks stop where they stand and every door it held is shut, so that a dying `finally:` block cannot
write one more row. Production and simulation differ only in the maker: `real_env()` or `sim_env(seed)`.
Why one object: a schedule is a function of (code, seed) only when nothing else can be asked for the time or for chance.
"""
from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Killed(BaseException):
    """Raised at every door of an Env that was killed. A BaseException so that no ordinary handler can swallow it."""


FaultHook = Callable[[str, dict[str, Any]], Awaitable[None] | None]


class Env:
    """One process's access to the outside. Times are seconds: `now()` since the Unix epoch, `monotonic()` since some start."""

    def __init__(
        self,
        name: str,
        rng: random.Random,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        threads: bool,
    ) -> None:
        self.name = name
        self.rng = rng
        self.threads = threads
        self.alive = True
        self.now = clock  # seconds since the Unix epoch
        self.monotonic = monotonic  # seconds on a clock that never steps back; only differences mean something
        self._tasks: set[asyncio.Task[Any]] = set()
        self._on_kill: list[Callable[[], None]] = []
        self.fault_hook: FaultHook | None = None
        self.marks: dict[str, int] | None = None

    # time -----------------------------------------------------------------------------------------------------------
    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        self.check_alive()

    async def wait_woken(self, wake: asyncio.Event, limit_s: float) -> None:
        """Return when `wake` is set, which it is at the latest after `limit_s`: for those who look again whether they were called or it was time."""
        timer = asyncio.get_running_loop().call_later(limit_s, wake.set)
        try:
            await wake.wait()
        finally:
            timer.cancel()

    # chance ---------------------------------------------------------------------------------------------------------
    def new_id(self) -> str:
        """A random UUID (version 4, RFC 9562) in its usual hyphenated form."""
        bits = self.rng.getrandbits(128)
        bits = bits & ~(0xF << 76) | (0x4 << 76)
        bits = bits & ~(0x3 << 62) | (0x2 << 62)
        text = f"{bits:032x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

    def token_hex(self, size_bytes: int) -> str:
        """`size_bytes` of unpredictable data in hex: from the system's source live, from the seed in the simulator."""
        return self.rng.getrandbits(size_bytes * 8).to_bytes(size_bytes, "big").hex()

    # tasks ----------------------------------------------------------------------------------------------------------
    def spawn(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Run a coroutine as a task of this process; it dies with `kill()`."""
        if not self.alive:
            work.close()
            raise Killed(self.name)
        task = asyncio.get_running_loop().create_task(work, name=f"{self.name}/{name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def offload(self, work: Callable[[], T]) -> T:
        """Run slow pure work (a password hash, a blocking library) off the loop; inline in the simulator."""
        if not self.threads:
            return work()
        result = await asyncio.get_running_loop().run_in_executor(None, work)
        self.check_alive()
        return result

    # life and death -------------------------------------------------------------------------------------------------
    def check_alive(self) -> None:
        if not self.alive:
            raise Killed(self.name)

    def on_kill(self, call: Callable[[], None]) -> None:
        """Register the shutting of a door (a link, a database handle) for `kill()`."""
        self._on_kill.append(call)

    def kill(self) -> None:
        """kill -9 of this process: no task of it runs another useful line."""
        self.alive = False
        for call in self._on_kill:
            call()
        self._on_kill.clear()
        for task in list(self._tasks):
            task.cancel()

    async def stop(self) -> None:
        """Orderly end: cancel this process's tasks and wait until they are gone."""
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.kill()

    def child(self, name: str) -> Env:
        """The Env of another process that shares this one's clock and source of chance."""
        other = Env(name, self.rng, self.now, self.monotonic, self.threads)
        other.fault_hook = self.fault_hook
        other.marks = self.marks
        return other

    # fault points ---------------------------------------------------------------------------------------------------
    async def point(self, name: str, **about: Any) -> None:
        """A named place where a simulator may watch, delay, fail (raise) or kill. Inert in production."""
        if self.fault_hook is not None:
            result = self.fault_hook(f"{self.name}:{name}", about)
            if result is not None:
                await result
            self.check_alive()

    def mark(self, name: str) -> None:
        """A rare path was taken. Counted only where a test gave `marks`: some seed has to take each of them."""
        if self.marks is not None:
            self.marks[name] = self.marks.get(name, 0) + 1


class _SystemRandom(random.SystemRandom):
    """The operating system's source; a class of its own so that type checkers see `random.Random`."""


def real_env(name: str = "controller") -> Env:
    """The production Env: wall clock, system randomness, threads allowed."""
    return Env(name, _SystemRandom(), time.time, time.monotonic, threads=True)


# A fixed virtual "today" so that rows written in a simulation are equal on every machine: 2026-01-01T00:00:00Z.
SIM_EPOCH_S = 1767225600.0


def sim_env(seed: int, name: str = "controller", loop: asyncio.AbstractEventLoop | None = None) -> Env:
    """The simulated Env: time is the (virtual) loop's, chance is the seed's, threads are forbidden."""

    def loop_time() -> float:
        return (loop or asyncio.get_running_loop()).time()

    def clock() -> float:
        return SIM_EPOCH_S + (loop or asyncio.get_running_loop()).time()

    return Env(name, random.Random(seed), clock, loop_time, threads=False)


def environment(name: str, default: str = "") -> str:
    """Read one variable of the process environment (kept here so that tests can see who does)."""
    return os.environ.get(name, default)
