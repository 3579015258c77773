"""A virtual-time asyncio loop whose every choice is a number: the machine under the simulator.

Owns: the order in which ready callbacks run, the virtual clock, and the errors of a run that cannot go on.
Rules: time stands still while anything is ready and then jumps to the next timer, so a day of waiting costs
nothing; where several callbacks are ready a policy (sim/policy.py) picks one by its index, so the same code
and the same picks give the same run in any process and on any machine; there are no threads, sockets,
signals or child processes (sim/sealed.py). asyncio promises that two `call_soon` run in order; this loop
breaks that promise on purpose, as two hosts would: code under test must not lean on it. Iterating over a
set of strings still depends on PYTHONHASHSEED: sort it. Sets of tasks are safe, tasks made here hash by a
serial number.
Why an own loop on `AbstractEventLoop` and not a patched `BaseEventLoop`: only public methods are
overridden, there is no selector, and what is leaned on beyond the public interface is a few names
(PRIVATE_NAMES) that a test pins.
Why one `pick(ready_count)`: seeds, recordings, replays and an exhaustive search are then one thing.
"""
from __future__ import annotations

import asyncio
import collections
import heapq
import inspect
import logging
import sys
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextvars import Context, copy_context
from typing import Any, TypeVar, TypeVarTuple

import msgspec

from virga.runtime.env import Killed
from virga.sim.policy import Choice, Fifo, Policy, Recorded, Scripted, Seeded, SimulationError, next_script
from virga.sim.sealed import Sealed, refuse

__all__ = [
    "Choice", "Deadlock", "Fifo", "Policy", "Recorded", "Scripted", "Seeded", "SimLoop", "SimTask",
    "SimulationError", "TooManySteps", "TooMuchTime", "next_script", "run", "where_it_waits",
]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
log = logging.getLogger(__name__)

MAX_STEPS = 50_000_000
MAX_TIME_S = 366 * 86400.0
# Timers closer than this fall due together, so that 0.1 + 0.2 and 0.3 are a race and not an order.
TIE_S = 1e-9
# After the main coroutine ended, its leftover tasks are cancelled and get this many steps to go away.
CLEANUP_STEPS = 1_000_000
NAMED_TASKS_MAX = 20

# What the loop needs of asyncio beyond its documented interface, as (owner, attribute).
PRIVATE_NAMES = (("Task", "_fut_waiter"), ("Task", "_log_destroy_pending"))


# errors ---------------------------------------------------------------------------------------------------
class Deadlock(SimulationError):
    """Nothing is ready and no timer is set: every task waits for another one, for ever."""


class TooManySteps(SimulationError):
    """The step limit was reached: most often a task that spins on `sleep(0)`."""


class TooMuchTime(SimulationError):
    """The next timer lies beyond the limit of virtual time: most often a retry without an end."""


# tasks and handles ----------------------------------------------------------------------------------------
class SimTask(asyncio.Task[Any]):
    """Hashes by a serial number: asyncio keeps tasks in sets, whose order must not be that of addresses."""

    _serial: int

    def __hash__(self) -> int:
        try:
            return self._serial
        except AttributeError:
            loop = self.get_loop()
            assert isinstance(loop, SimLoop)
            self._serial = loop.next_serial()
            return self._serial


class Ready(msgspec.Struct, eq=False):
    """A callback to be run: what is used of asyncio's Handle, in a form that is made several times as fast."""

    callback: Callable[..., object]
    args: Sequence[Any]
    context: Context
    stopped: bool = False

    def cancel(self) -> None:
        self.stopped = True

    def cancelled(self) -> bool:
        return self.stopped


class Timer(msgspec.Struct, eq=False):
    """The same at a certain time, as asyncio's TimerHandle. It knows whether it still lies in the loop's heap."""

    due: float
    callback: Callable[..., object]
    args: Sequence[Any]
    context: Context
    loop: SimLoop
    stopped: bool = False
    queued: bool = True

    def cancel(self) -> None:
        if not self.stopped:
            self.stopped = True
            if self.queued:
                self.loop.timer_cancelled()

    def cancelled(self) -> bool:
        return self.stopped

    def when(self) -> float:
        return self.due


# the loop -------------------------------------------------------------------------------------------------
class SimLoop(Sealed):
    """`SimLoop(seed).run(main)`. `steps`: callbacks run; `time()`: virtual seconds since the start."""

    def __init__(
        self, seed: int = 0, *, policy: Policy | None = None, max_steps: int = MAX_STEPS,
        max_time_s: float = MAX_TIME_S,
    ) -> None:
        chosen = policy if policy is not None else Seeded(seed)
        # Picking by a method call costs as much as a trivial callback: leave it out where it cannot matter.
        self._pick: Callable[[int], int] | None = None if isinstance(chosen, Fifo) else chosen.pick
        self.steps = 0
        self.max_steps = max_steps
        self.max_time_s = max_time_s
        self.unhandled: list[dict[str, Any]] = []
        self._now = 0.0
        self._ready: collections.deque[Ready | Timer] = collections.deque()
        self._timers: list[tuple[float, int, Timer]] = []
        self._timers_cancelled = 0
        self._timer_serial = 0
        self._task_serial = 0
        self._running = False
        self._stopping = False
        self._closed = False
        self._asyncgens: weakref.WeakSet[AsyncGenerator[Any, Any]] = weakref.WeakSet()
        self._task_factory: Any = None
        self._exception_handler: Any = None

    # running ----------------------------------------------------------------------------------------------
    def run(self, main: Coroutine[Any, Any, T] | Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run `main` to its end, cancel what it left behind, close the loop, return its result.

        Raises what `main` raises; Deadlock, TooManySteps, TooMuchTime; what a callback raised.
        """
        work = main() if callable(main) else main
        try:
            result: T = self.run_until_complete(work)
            self._cleanup(loud=True)
            return result
        except BaseException:
            self._cleanup(loud=False)
            raise
        finally:
            if inspect.getcoroutinestate(work) == inspect.CORO_CREATED:
                work.close()
            self.close()

    def run_until_complete(self, future: Any) -> Any:
        self._check_startable()
        task = asyncio.ensure_future(future, loop=self)

        def stop(_: asyncio.Future[Any]) -> None:
            self._stopping = True

        task.add_done_callback(stop)
        try:
            self.run_forever()
        finally:
            task.remove_done_callback(stop)
        if not task.done():
            raise RuntimeError("the loop was stopped before its future was done")
        return task.result()

    def run_forever(self) -> None:
        """Run until `stop()`. Raises Deadlock, TooManySteps, TooMuchTime."""
        self._check_startable()
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(firstiter=self._asyncgens.add, finalizer=self._asyncgen_dropped)
        asyncio._set_running_loop(self)
        self._running = True
        try:
            self._turn()
        finally:
            self._running = self._stopping = False
            asyncio._set_running_loop(None)
            sys.set_asyncgen_hooks(*hooks)

    def _turn(self) -> None:
        """The hot path: everything it touches each time round is a local name or one attribute."""
        ready, timers, pick = self._ready, self._timers, self._pick
        popleft = ready.popleft
        while not self._stopping:
            if timers and timers[0][0] <= self._now:
                self._take_due(self._now)
            count = len(ready)
            if count == 1 or (count and pick is None):
                handle = popleft()
            elif count:
                index = pick(count)  # type: ignore[misc]  # not None here
                handle = ready[index]
                del ready[index]
            else:
                self._jump()
                continue
            if handle.stopped:
                continue
            self.steps += 1
            if self.steps > self.max_steps:
                ready.appendleft(handle)
                raise TooManySteps(
                    f"{self.max_steps} steps were run by virtual time {self._now:.6f} s, and no end. "
                    f"Ready to run: {self._ready_names()}.\n{self._waiting()}")
            try:
                handle.context.run(handle.callback, *handle.args)
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:
                self._failed(handle, error)

    def _failed(self, handle: Any, error: BaseException) -> None:
        """A plain callback raised (a task keeps its exception to itself): it ends the run, unless handled."""
        if isinstance(error, Killed):
            return
        if self._exception_handler is None:
            raise error
        message = f"Exception in callback {_owner_name(handle)}"
        self.call_exception_handler({"message": message, "exception": error, "handle": handle})

    def _jump(self) -> None:
        """Nothing is ready: move the clock to the next timer."""
        timers = self._timers
        while timers and timers[0][2].stopped:
            heapq.heappop(timers)[2].queued = False
            self._timers_cancelled -= 1
        if not timers:
            raise Deadlock(
                f"deadlock at virtual time {self._now:.6f} s, step {self.steps}: nothing is ready, "
                f"no timer is set.\n{self._waiting()}")
        when = timers[0][0]
        if when > self.max_time_s:
            raise TooMuchTime(
                f"the next timer is set for virtual time {when:.6f} s, beyond the limit of "
                f"{self.max_time_s:.6f} s (now {self._now:.6f} s, step {self.steps}).\n{self._waiting()}")
        self._take_due(when + TIE_S)

    def _take_due(self, until: float) -> None:
        """Move the timers due up to `until` among the ready, in order, and the clock to the last of them."""
        timers = self._timers
        while timers and timers[0][0] <= until:
            when, _, timer = heapq.heappop(timers)
            timer.queued = False
            if timer.stopped:
                self._timers_cancelled -= 1
                continue
            if when > self._now:
                self._now = when
            self._ready.append(timer)

    def _cleanup(self, loud: bool) -> None:
        """Cancel every task left and let it end; an error on the way is raised only if `loud`."""
        asyncgens = list(self._asyncgens)
        if self._closed or not (asyncgens or self._tasks()):
            return
        # Oldest first: the order of dying is not worth a choice, and a search would multiply by it.
        self._pick = None
        self.max_steps = self.steps + CLEANUP_STEPS
        self.max_time_s = max(self.max_time_s, self._now + MAX_TIME_S)
        left = self._tasks()
        for task in left:
            task.cancel()

        async def gone() -> None:
            await asyncio.gather(*left, return_exceptions=True)
            await self.shutdown_asyncgens()

        closing = gone()
        try:
            self.run_until_complete(closing)
        except BaseException:
            if inspect.getcoroutinestate(closing) == inspect.CORO_CREATED:
                closing.close()
            for task in self._tasks():
                task._log_destroy_pending = False  # type: ignore[attr-defined]  # already told, once is enough
            if loud:
                raise

    def stop(self) -> None:
        self._stopping = True

    def is_running(self) -> bool:
        return self._running

    def is_closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        if self._running:
            raise RuntimeError("a running loop cannot be closed")
        self._closed = True
        self._ready.clear()
        self._timers.clear()

    def _check_startable(self) -> None:
        self._check_closed()
        if asyncio._get_running_loop() is not None:
            raise RuntimeError("a loop is already running here: await instead of running a second one")

    def _check_closed(self) -> None:
        if self._closed:
            raise RuntimeError("the simulated loop is closed")

    async def shutdown_asyncgens(self) -> None:
        left = list(self._asyncgens)
        self._asyncgens.clear()
        await asyncio.gather(*(each.aclose() for each in left), return_exceptions=True)

    async def shutdown_default_executor(self) -> None:
        """Nothing to do: there are no threads."""

    def _asyncgen_dropped(self, each: AsyncGenerator[Any, Any]) -> None:
        self._asyncgens.discard(each)
        if not self._closed:
            self.create_task(each.aclose(), name="close dropped generator")

    # scheduling -------------------------------------------------------------------------------------------
    def time(self) -> float:
        return self._now

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None,
    ) -> asyncio.Handle:
        if self._closed:
            self._check_closed()
        handle = Ready(callback, args, context if context is not None else copy_context())
        self._ready.append(handle)
        return handle  # type: ignore[return-value]  # as good as a Handle

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None,
    ) -> asyncio.Handle:
        """As `call_soon`; from another thread it is refused, since such a call could come at any step."""
        if self._running and asyncio._get_running_loop() is not self:
            refuse("call_soon_threadsafe from another thread")
        return self.call_soon(callback, *args, context=context)

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None,
    ) -> asyncio.TimerHandle:
        if self._closed:
            self._check_closed()
        timer = Timer(when, callback, args, context if context is not None else copy_context(), self)
        self._timer_serial += 1
        heapq.heappush(self._timers, (when, self._timer_serial, timer))
        return timer  # type: ignore[return-value]  # as good as a TimerHandle

    def timer_cancelled(self) -> None:
        """Called by a timer in the heap that is cancelled. Sweeps the heap when most of it is cancelled timeouts."""
        self._timers_cancelled += 1
        if self._timers_cancelled > 100 and self._timers_cancelled * 2 > len(self._timers):
            self._timers[:] = [entry for entry in self._timers if not entry[2].stopped]
            heapq.heapify(self._timers)
            self._timers_cancelled = 0

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(
        self, coro: Any, *, name: str | None = None, context: Context | None = None, **more: Any,
    ) -> asyncio.Task[Any]:
        if self._closed:
            self._check_closed()
        if self._task_factory is not None:
            made: asyncio.Task[Any] = self._task_factory(self, coro, context=context, **more)
            if name is not None:
                made.set_name(name)
            return made
        return SimTask(coro, loop=self, name=name, context=context, **more)

    def set_task_factory(self, factory: Any) -> None:
        self._task_factory = factory

    def get_task_factory(self) -> Any:
        return self._task_factory

    def next_serial(self) -> int:
        self._task_serial += 1
        return self._task_serial

    # False; asked for by every future and task that is made, so it is answered without a line of Python.
    get_debug = staticmethod(bool)

    def set_debug(self, enabled: bool) -> None:
        """Ignored: asyncio's debug mode measures wall time."""

    # failures ---------------------------------------------------------------------------------------------
    def set_exception_handler(self, handler: Any) -> None:
        self._exception_handler = handler

    def get_exception_handler(self) -> Any:
        return self._exception_handler

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if self._exception_handler is not None:
            self._exception_handler(self, context)
        else:
            self.default_exception_handler(context)

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        """An exception that nobody took from its task is kept in `unhandled` and logged, but for a kill."""
        error = context.get("exception")
        if isinstance(error, Killed):
            return
        self.unhandled.append({key: context[key] for key in ("message", "exception") if key in context})
        log.error("%s: %r", context.get("message"), error)

    def _tasks(self) -> list[asyncio.Task[Any]]:
        return sorted(asyncio.all_tasks(self), key=hash)

    def _waiting(self) -> str:
        tasks = self._tasks()
        lines = [f"  {task.get_name()}: {where_it_waits(task)}" for task in tasks[:NAMED_TASKS_MAX]]
        if len(tasks) > NAMED_TASKS_MAX:
            lines.append(f"  and {len(tasks) - NAMED_TASKS_MAX} more")
        return "\n".join(["waiting tasks:", *lines]) if lines else "no task is left"

    def _ready_names(self) -> str:
        names = [_owner_name(handle) for handle in list(self._ready)[:NAMED_TASKS_MAX]]
        return ", ".join(names) if names else "nothing"


# telling where a task stands ------------------------------------------------------------------------------
def where_it_waits(task: asyncio.Task[Any]) -> str:
    """The innermost line of own code a task stands at, the asyncio call under it, the task it waits for."""
    ours, theirs = "", ""
    awaited: Any = task.get_coro()
    while awaited is not None:
        code, frame, inner = (_part(awaited, part) for part in ("code", "frame", "await"))
        if code is None:
            break
        name = getattr(code, "co_qualname", code.co_name)
        if "/asyncio/" in code.co_filename.replace("\\", "/"):
            theirs = theirs or name
        else:
            place = "/".join(code.co_filename.replace("\\", "/").split("/")[-2:])
            ours, theirs = f"{place}:{frame.f_lineno if frame is not None else '?'} {name}", ""
        awaited = inner
    text = f"at {ours}" if ours else "not started"
    if theirs:
        text += f", in {theirs}"
    waiter = getattr(task, "_fut_waiter", None)
    if isinstance(waiter, asyncio.Task):
        text += f", for task {waiter.get_name()}"
    return text


def _part(awaited: Any, part: str) -> Any:
    """`cr_frame` of a coroutine, `gi_frame` of a generator, `ag_frame` of an async one, else None."""
    for prefix in ("cr_", "gi_", "ag_"):
        name = "gi_yieldfrom" if (prefix, part) == ("gi_", "await") else prefix + part
        if hasattr(awaited, name):
            return getattr(awaited, name)
    return None


def _owner_name(handle: Ready | Timer) -> str:
    """The task a ready callback belongs to, or the callback's own name."""
    callback = handle.callback
    owner = getattr(callback, "__self__", None)
    if isinstance(owner, asyncio.Task):
        return f"{owner.get_name()} ({where_it_waits(owner)})"
    return getattr(callback, "__qualname__", repr(callback))


def run(
    main: Coroutine[Any, Any, T] | Callable[[], Coroutine[Any, Any, T]], seed: int = 0, *,
    policy: Policy | None = None, max_steps: int = MAX_STEPS, max_time_s: float = MAX_TIME_S,
) -> T:
    """Run `main` under virtual time and return its result; see `SimLoop.run`. A policy beats the seed."""
    return SimLoop(seed, policy=policy, max_steps=max_steps, max_time_s=max_time_s).run(main)
