"""kill -9 of a process that commits: whatever it was told is committed is there afterwards, whole, and nothing else is half there."""
from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path

from virga.domain.placement import Claim
from virga.domain.server import Server
from virga.runtime.env import real_env
from virga.runtime.trace import Trace
from virga.store.db import SqliteDb

WRITER = """
import asyncio, sys
from pathlib import Path
from virga.domain.placement import Claim
from virga.domain.server import FlavorSpec, Server
from virga.runtime.env import real_env
from virga.runtime.trace import Trace
from virga.store.db import SqliteDb

async def write(db, number):
    def closure(tx):
        tx.insert(Server(f"s{number}", "p", "u", "n", FlavorSpec("1", "small", 1, 1, 1)))
        tx.put(Claim("h", f"s{number}", "server", f"s{number}", 1, 1, 1))
    await db.run(closure)
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()

async def main():
    env = real_env()
    db = SqliteDb(env, Trace(env.now), Path(sys.argv[1]))
    for start in range(0, 100000, 8):
        await asyncio.gather(*(write(db, start + number) for number in range(8)))

asyncio.run(main())
"""


def test_acknowledged_rows_survive(tmp_path: Path) -> None:
    path = tmp_path / "virga.sqlite"
    for attempt in range(3):
        path.unlink(missing_ok=True)
        (tmp_path / "virga.sqlite-wal").unlink(missing_ok=True)
        (tmp_path / "virga.sqlite-shm").unlink(missing_ok=True)
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        told = [process.stdout.readline() for _ in range(20 + 17 * attempt)]
        time.sleep(0.003 * attempt)
        process.kill()
        told += process.stdout.read().splitlines(keepends=True)
        process.wait(10)
        acknowledged = {int(line) for line in told if line.endswith("\n")}

        async def look() -> tuple[set[int], set[int]]:
            env = real_env()
            db = SqliteDb(env, Trace(env.now), path)
            servers = await db.read(lambda tx: {int(row.id[1:]) for row in tx.find(Server)})
            claims = await db.read(lambda tx: {int(row.owner[1:]) for row in tx.find(Claim)})
            db.close()
            return servers, claims

        servers, claims = asyncio.run(look())
        assert len(acknowledged) >= 20
        assert acknowledged <= servers
        assert servers == claims, "a transaction is there whole or not at all"
