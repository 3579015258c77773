"""The cloud under measurement: a `virga up` of its own on a fresh state folder, and what the kernel says about its processes."""
from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.http import Api, Connection

START_TIMEOUT_S = 30.0
PASSWORD = "bench-admin-password"


class Cloud:
    """`virga up` in a child process. `cores` pins it."""

    def __init__(self, port: int, *, hosts: int = 2, cores: set[int] | None = None, toml: str = "") -> None:
        self.port, self.hosts, self.cores = port, hosts, cores
        self.state = Path(tempfile.mkdtemp(prefix="virga-bench-"))
        self.config = self.state / "cloud.toml"
        self.config.write_text(toml)
        self.process: subprocess.Popen[bytes] | None = None
        self.api = Api("127.0.0.1", port, PASSWORD)

    async def start(self) -> tuple[float, float]:
        """Seconds from the start of the process to the first API answer, and to a token issued."""
        env = {**os.environ, "VIRGA_ADMIN_PASSWORD": PASSWORD}
        began = time.monotonic()
        self.process = self._spawn(env)
        if self.cores is not None:
            os.sched_setaffinity(self.process.pid, self.cores)
        while True:
            probe = Connection("127.0.0.1", self.port)
            try:
                async with asyncio.timeout(START_TIMEOUT_S):
                    await probe.request("GET", "/identity/v3")
                break
            except OSError as error:
                if self.process.poll() is not None or time.monotonic() - began > START_TIMEOUT_S:
                    raise RuntimeError(f"the cloud did not start: {(self.state / 'virga.log').read_text()[-400:]}") from error
                await asyncio.sleep(0.002)
            finally:
                probe.close()
        answered_s = time.monotonic() - began
        await self.api.log_in()
        token_s = time.monotonic() - began
        for _ in range(int(START_TIMEOUT_S / 0.01)):
            listed = (await self.api.call("GET", "/compute/v2.1/os-hypervisors/detail"))["hypervisors"]
            if sum(row["state"] == "up" for row in listed) >= self.hosts:
                return answered_s, token_s
            await asyncio.sleep(0.01)
        raise RuntimeError("the hosts did not connect")

    def _spawn(self, env: dict[str, str]) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "virga.cli", "up", "--hosts", str(self.hosts), "--state", str(self.state),
                   "--listen", f"127.0.0.1:{self.port}", "--config", str(self.config)]
        with (self.state / "virga.log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=env, start_new_session=True)

    def memory_mb(self) -> tuple[float, float]:
        """(RSS, PSS) of the whole process tree in MB (10**6 bytes)."""
        assert self.process is not None
        rss = pss = 0
        for pid in self._tree(self.process.pid):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                name, _, value = line.partition(":")
                if name == "Rss":
                    rss += int(value.split()[0])
                elif name == "Pss":
                    pss += int(value.split()[0])
        return rss * 1024 / 1e6, pss * 1024 / 1e6

    def _tree(self, pid: int) -> list[int]:
        found = [pid]
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += self._tree(int(child))
        return found

    def cpu_s(self) -> float:
        """User and system time of the process so far, in seconds."""
        assert self.process is not None
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self, *, remove: bool = True) -> None:
        self.api.close()
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if remove:
            shutil.rmtree(self.state, ignore_errors=True)


def machine_line() -> dict[str, object]:
    """What was measured on: processor, cores, memory, kernel, file system of the state folder, versions."""
    cpus = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    cpu = cpus[0].partition(":")[2].strip() if cpus else "unknown"
    memory_kb = next(int(line.split()[1]) for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    mount = subprocess.run(["stat", "-f", "-c", "%T", tempfile.gettempdir()], capture_output=True, text=True, check=False).stdout.strip()
    import sqlite3
    from importlib.metadata import version

    return {"cpu": cpu, "cores": os.cpu_count(), "memory_gb": round(memory_kb / 1e6, 1), "kernel": os.uname().release, "file_system": mount,
            "python": sys.version.split()[0], "sqlite": sqlite3.sqlite_version, "virga": version("virga-cloud"), "uvicorn": version("uvicorn"),
            "msgspec": version("msgspec"), "load_before": round(os.getloadavg()[0], 2)}
