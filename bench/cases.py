"""What is measured. Every case returns rows: (name, value, unit, target, how it is judged).

Latencies are what a client sees: from sending the request to the poll that shows the wanted status, polled every POLL_S; emulated hosts with no
scripted delay, so the drivers' own time is as good as nothing. Targets are those of the issue that asked for the measurement.
"""
from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

from bench.cloud import Cloud
from bench.http import Api, Connection

POLL_S = 0.002
SMALL, LARGE = "1", "4"
SEQUENTIAL = 40
AT_ONCE = 50
CYCLES, IN_FLIGHT = 60, 20
LISTED = 100
LIST_S = 5.0


class Row(NamedTuple):
    """One line of the table. `best` says which side of the target is good: below or above."""

    name: str
    value: float
    unit: str
    target: float | None = None
    best: str = "below"
    note: str = ""

    @property
    def met(self) -> bool | None:
        return None if self.target is None else self.value <= self.target if self.best == "below" else self.value >= self.target


Say = Callable[[str], None]


def quantiles(name: str, values_s: list[float], target_p50_ms: float | None = None) -> list[Row]:
    ordered = sorted(values_s)
    p95 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))]
    return [Row(f"{name}, p50", statistics.median(ordered) * 1000, "ms", target_p50_ms), Row(f"{name}, p95", p95 * 1000, "ms")]


class Parts(NamedTuple):
    image: str
    network: str


async def parts(api: Api) -> Parts:
    image = (await api.call("GET", "/image/v2/images"))["images"][0]["id"]
    network = (await api.call("GET", "/network/v2.0/networks?name=private"))["networks"][0]["id"]
    return Parts(image, network)


async def create(api: Api, found: Parts, name: str) -> str:
    body = {"name": name, "flavorRef": SMALL, "imageRef": found.image, "networks": [{"uuid": found.network}]}
    return str((await api.call("POST", "/compute/v2.1/servers", {"server": body}))["server"]["id"])


async def until(api: Api, server_id: str, status: str, poll_s: float = POLL_S) -> None:
    while True:
        server = (await api.call("GET", f"/compute/v2.1/servers/{server_id}"))["server"]
        if server["OS-EXT-STS:task_state"] is None and server["status"] != "BUILD":
            if server["status"] == status:
                return
            raise RuntimeError(f"{server_id} is {server['status']} instead of {status}: {server.get('fault')}")
        await asyncio.sleep(poll_s)


async def act(api: Api, server_id: str, body: dict[str, Any]) -> None:
    await api.call("POST", f"/compute/v2.1/servers/{server_id}/action", body)


async def gone(api: Api, server_id: str, poll_s: float = POLL_S) -> None:
    await api.call("DELETE", f"/compute/v2.1/servers/{server_id}")
    while await api.call("GET", f"/compute/v2.1/servers/{server_id}", ok=(404,)) is not None:
        if "server" not in (await api.call("GET", f"/compute/v2.1/servers/{server_id}", ok=(404,)) or {}):
            return
        await asyncio.sleep(poll_s)


async def timed(work: Awaitable[None]) -> float:
    began = time.monotonic()
    await work
    return time.monotonic() - began


# cases --------------------------------------------------------------------------------------------------------------
async def starting(port: int, say: Say) -> list[Row]:
    """A first start (database, users and image are made) and a second one, five times each."""
    first: list[tuple[float, float]] = []
    second: list[tuple[float, float]] = []
    memory: list[tuple[float, float]] = []
    idle: list[float] = []
    work: list[float] = []
    for _ in range(5):
        cloud = Cloud(port)
        try:
            first.append(await cloud.start())
            work.append(cloud.cpu_s())
            await asyncio.sleep(1.0)
            before_s = cloud.cpu_s()
            await asyncio.sleep(1.0)
            idle.append((cloud.cpu_s() - before_s) * 100)
            memory.append(cloud.memory_mb())
            cloud.stop(remove=False)
            second.append(await cloud.start())
        finally:
            cloud.stop()
    say("start and memory")
    return [
        Row("first start -> API answers", statistics.median(answer for answer, _ in first), "s"),
        Row("first start -> token issued", statistics.median(token for _, token in first), "s", 2.0),
        Row("first start: processor time until the hosts are connected", statistics.median(work), "s"),
        Row("later start -> token issued", statistics.median(token for _, token in second), "s", 2.0),
        Row("idle memory, whole process tree (RSS)", max(rss for rss, _ in memory), "MB", 120.0),
        Row("idle memory, shared pages counted once (PSS)", max(pss for _, pss in memory), "MB"),
        Row("idle processor time", statistics.median(idle), "% of a core"),
    ]


async def one_after_another(port: int, say: Say) -> list[Row]:
    cloud = Cloud(port)
    api = cloud.api
    rows: dict[str, list[float]] = {"create -> ACTIVE": [], "resize -> VERIFY_RESIZE": [], "revert -> ACTIVE": [], "delete -> gone": []}
    try:
        await cloud.start()
        found = await parts(api)
        before_s = 0.0
        for number in range(SEQUENTIAL + 3):
            if number == 3:
                before_s = cloud.cpu_s()
            began = time.monotonic()
            server_id = await create(api, found, f"b{number}")
            await until(api, server_id, "ACTIVE")
            took = [time.monotonic() - began]
            for body, status in (({"resize": {"flavorRef": LARGE}}, "VERIFY_RESIZE"), ({"revertResize": None}, "ACTIVE")):
                began = time.monotonic()
                await act(api, server_id, body)
                await until(api, server_id, status)
                took.append(time.monotonic() - began)
            took.append(await timed(gone(api, server_id)))
            if number >= 3:  # the first ones warm caches
                for values, value in zip(rows.values(), took, strict=True):
                    values.append(value)
        life_ms = (cloud.cpu_s() - before_s) / SEQUENTIAL * 1000
    finally:
        cloud.stop()
    say("one after another")
    targets = {"create -> ACTIVE": 50.0, "revert -> ACTIVE": 50.0}
    latencies = [row for name, values in rows.items() for row in quantiles(name, values, targets.get(name))]
    return [*latencies, Row("processor time of the server for one such life, polls included", life_ms, "ms")]


async def many(port: int, say: Say) -> list[Row]:
    """50 servers asked for at once, and how long until the last is ACTIVE; then whole lives, 20 at a time."""
    cloud = Cloud(port, hosts=4)
    api = cloud.api
    try:
        await cloud.start()
        found = await parts(api)
        began = time.monotonic()
        ids = await asyncio.gather(*(create(api, found, f"m{number}") for number in range(AT_ONCE)))
        accepted_s = time.monotonic() - began
        while True:
            listed = (await api.call("GET", "/compute/v2.1/servers/detail"))["servers"]
            if sum(server["status"] == "ACTIVE" for server in listed) == AT_ONCE:
                break
            if any(server["status"] == "ERROR" for server in listed):
                raise RuntimeError(f"a server went wrong: {[server.get('fault') for server in listed if server['status'] == 'ERROR'][:2]}")
            await asyncio.sleep(0.02)
        all_s = time.monotonic() - began
        await asyncio.gather(*(gone(api, server_id, 0.02) for server_id in ids))
        say("50 at once")
        cycles = await _cycles(api, found)
    finally:
        cloud.stop()
    say("20 at a time")
    return [Row("50 creates at once: all accepted", accepted_s, "s"), Row("50 creates at once: all ACTIVE", all_s, "s", 5.0), *cycles]


async def _cycles(api: Api, found: Parts) -> list[Row]:
    """create, resize, revert, delete, with 20 servers under way all the time."""
    todo = list(range(CYCLES))
    took: list[float] = []
    reverts: list[float] = []

    async def worker() -> None:
        while todo:
            number = todo.pop()
            began = time.monotonic()
            server_id = await create(api, found, f"c{number}")
            await until(api, server_id, "ACTIVE", 0.02)
            await act(api, server_id, {"resize": {"flavorRef": LARGE}})
            await until(api, server_id, "VERIFY_RESIZE", 0.02)
            again = time.monotonic()
            await act(api, server_id, {"revertResize": None})
            await until(api, server_id, "ACTIVE", 0.02)
            reverts.append(time.monotonic() - again)
            await gone(api, server_id, 0.02)
            took.append(time.monotonic() - began)

    whole_s = await timed(_all([worker() for _ in range(IN_FLIGHT)]))
    return [Row(f"{IN_FLIGHT} at a time: whole lives (create, resize, revert, delete)", CYCLES / whole_s, "/s"),
            *quantiles(f"{IN_FLIGHT} at a time: one whole life", took), *quantiles(f"{IN_FLIGHT} at a time: revert -> ACTIVE", reverts)]


async def _all(works: list[Any]) -> None:
    await asyncio.gather(*works)


async def listing(port: int, say: Say) -> list[Row]:
    """GET /servers/detail with 100 servers: the server alone on one core, the client on another."""
    cores = sorted(os.sched_getaffinity(0))
    cloud = Cloud(port, hosts=4, cores={cores[0]})
    api = cloud.api
    try:
        if len(cores) > 1:
            os.sched_setaffinity(0, {cores[1]})
        await cloud.start()
        found = await parts(api)
        ids = [await create(api, found, f"l{number}") for number in range(LISTED)]
        for server_id in ids:
            await until(api, server_id, "ACTIVE", 0.02)
        rows = []
        for name, path, target in (
            ("GET /servers/detail, 100 servers", "/compute/v2.1/servers/detail", 300.0),
            ("GET /servers, 100 servers", "/compute/v2.1/servers", None),
            ("GET /servers/{id}", f"/compute/v2.1/servers/{ids[0]}", None),
            ("GET /ports, 100 ports", "/network/v2.0/ports", None),
            ("GET /identity/v3 (no token)", "/identity/v3", None),
        ):
            before_s = cloud.cpu_s()
            answers, size = await _hammer(cloud, path)
            cpu_s = cloud.cpu_s() - before_s
            rows.append(Row(name, answers / LIST_S, "answers/s", target, "above", f"{size / 1000:.0f} kB each"))
            rows.append(Row("   per second of the server's processor time", answers / cpu_s, "answers/s", target, "above"))
    finally:
        os.sched_setaffinity(0, set(cores))
        cloud.stop()
    say("lists")
    return rows


async def _hammer(cloud: Cloud, path: str) -> tuple[int, int]:
    """Answers within LIST_S over four connections that are never idle, and the size of one."""
    count, size = 0, 0
    end = time.monotonic() + LIST_S

    async def one() -> None:
        nonlocal count, size
        connection = Connection("127.0.0.1", cloud.port)
        while time.monotonic() < end:
            status, _, body = await connection.request("GET", path, cloud.api.token)
            if status >= 300:
                raise RuntimeError(f"GET {path}: {status} {body[:200]!r}")
            count, size = count + 1, len(body)
        connection.close()

    await asyncio.gather(*(one() for _ in range(4)))
    return count, size


async def committing(_: int, say: Say) -> list[Row]:
    """Durable transactions of the store: one after another, and 64 waiting at a time (the writer commits those together)."""
    from virga.domain.operation import StoredEvent
    from virga.runtime.env import real_env
    from virga.runtime.trace import Trace
    from virga.store.db import SqliteDb, Tx

    env = real_env("bench")
    with tempfile.TemporaryDirectory(prefix="virga-bench-") as folder:
        db = SqliteDb(env, Trace(env.now), Path(folder) / "bench.db")
        number = 0

        async def commit() -> None:
            nonlocal number
            number += 1
            row = StoredEvent(number, env.now(), "note", "a", "b", "a line of about the usual length")

            def closure(tx: Tx) -> None:
                tx.put(row)

            await db.run(closure)

        async def many_commits(end: float) -> None:
            while time.monotonic() < end:
                await commit()

        began = time.monotonic()
        await many_commits(began + 2.0)
        single = number / (time.monotonic() - began)
        number, began = 0, time.monotonic()
        await asyncio.gather(*(many_commits(began + 2.0) for _ in range(64)))
        grouped = number / (time.monotonic() - began)
        db.close()
    say("storage")
    return [Row("storage: durable commits, one after another", single, "/s", None, "above"),
            Row("storage: durable commits, 64 at a time", grouped, "/s", None, "above")]


async def simulating(_: int, say: Say) -> list[Row]:
    """Founding-case schedules (5 servers, resize all, revert all) a second on one core, each audited against all invariants.

    The store's memory engine runs most seeds of the simulator and is what is held against the target; SQLite, production's, is measured beside it.
    """
    rows = []
    for name, store, seeds, options in (
        ("undisturbed", "memory", 200, ["--no-faults"]), ("with faults", "memory", 100, []), ("undisturbed", "sqlite", 60, ["--no-faults"]),
    ):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "virga.cli", "sim", "--kind", "founding", "--store", store, "--seeds", str(seeds), "--json", *options,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
        out, told = await process.communicate()
        if process.returncode != 0:
            raise RuntimeError(f"virga sim: {(out + told)[-400:].decode(errors='replace')}")
        found = json.loads(out)
        engine = "store in memory" if store == "memory" else "store in SQLite"
        rows.append(Row(f"simulator: founding schedules, {name}, {engine}", found["per_s"], "/s", 100.0 if options and store == "memory" else None, "above"))
        rows.append(Row("   per second of processor time", found["per_cpu_s"], "/s", None, "above"))
    say("simulator")
    return rows


CASES = {"start": starting, "sequence": one_after_another, "many": many, "lists": listing, "storage": committing, "sim": simulating}
