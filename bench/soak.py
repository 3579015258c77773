
"""The soak: rounds of resize-all / revert-all with real guests while at random an agent, a libvirtd, a guest's qemu or the controller is killed -9.

A revert counts as good when its server is ACTIVE on its old host and the guest, asked over ssh, has the bytes it had before the resize and nothing of
what was written in between. The client behaves as a patient user: a call that a dying controller has cut is made again, a server that its host reports as
shut off (its qemu was killed while nothing was under way) is started again, and a move that ended back where it began is asked for again. How often
that was needed is part of the result; nothing else is repaired by hand.
"""
from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import tempfile
from pathlib import Path
from typing import Any

from virga.cli_client import Client, ClientError, Refused, find_login
from virga.cli_demo import Child
from virga.cli_founding import Outcome, count
from virga.cli_guests import GUEST_TIMEOUT_S, RealFounding
from virga.lab.hosts import processes_in
from virga.runtime.env import Env

PAUSE_S = (1.0, 6.0)  # between two kills
MARKS = {"agent": b"virga.cli\0host\0", "libvirtd": b"libvirtd\0--listen", "qemu": b"qemu-system-x86_64\0", "controller": b"virga.cli\0controller\0"}
WRAPPERS = (b"sh\0", b"tini\0", b"nsenter\0")
CALL_TIMEOUT_S = 60.0
ASKED_MAX = 5


class Patient(Client):
    """A client that outlives the controller it talks to."""

    async def call(self, method: str, service: str, path: str, body: Any = None, *, version: str = "", ok: tuple[int, ...] = ()) -> Any:
        cut = False
        for _ in range(int(CALL_TIMEOUT_S / 0.5)):
            try:
                return await super().call(method, service, path, body, version=version, ok=ok)
            except Refused as refused:
                if not (refused.status == 409 and cut and method == "POST"):
                    raise
                return None  # the call that was cut had been heard
            except ClientError:
                cut = True
                await asyncio.sleep(0.5)
        raise ClientError(f"{method} {path} could not be made within {CALL_TIMEOUT_S:.0f} s")


class Soaked(RealFounding):
    """The founding case by a patient user."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.started = self.asked_again = 0

    async def _server(self, server_id: str) -> dict[str, Any]:
        return dict((await self.client.get("compute", f"/servers/{server_id}"))["server"])

    async def _wake(self, server_id: str) -> dict[str, Any]:
        """Start the server if it was seen shut off; what it is then."""
        server = await self._server(server_id)
        if server["status"] == "SHUTOFF" and server["OS-EXT-STS:task_state"] is None:
            self.started += 1
            with contextlib.suppress(Refused):  # its state was about to change
                await self.client.post("compute", f"/servers/{server_id}/action", {"os-start": None})
            server = await self._until(server_id, "ACTIVE", any_end=True)
        return server

    async def _not_reached(self, server_id: str) -> None:
        await self._wake(server_id)

    async def _check_written(self, outcome: Outcome, before: dict[str, dict[str, Any]]) -> None:
        """A guest that died in the resized server cannot be started there; it is reverted all the same."""
        end = self.env.monotonic() + GUEST_TIMEOUT_S
        while (await self._server(outcome.server_id))["OS-EXT-STS:power_state"] == 1 and self.env.monotonic() < end:
            code, digest = await self._ssh(outcome.server_id, "echo resized >/root/written-while-resized; sync; sha256sum </root/demo-file")
            if code == 0:
                if digest != self._digests[outcome.server_id]:
                    outcome.why, outcome.disk = "the resized guest does not have the file that was written before", "lost"
                return
            await self.env.sleep(0.3)

    async def _resize(self, outcome: Outcome) -> float:
        took_s = 0.0
        for asked in range(ASKED_MAX):
            await self._wake(outcome.server_id)
            outcome.why = ""
            self.asked_again += asked > 0
            try:
                took_s = await super()._resize(outcome)
            except Refused as refused:  # it went down between two looks
                outcome.why = str(refused)
            if not outcome.why:
                break
        return took_s

    async def _revert(self, outcome: Outcome) -> None:
        for asked in range(ASKED_MAX):
            outcome.why = ""
            self.asked_again += asked > 0
            try:
                await super()._revert(outcome)
            except Refused as refused:
                outcome.why = str(refused)
            if (await self._server(outcome.server_id))["status"] != "VERIFY_RESIZE":
                break
        server = await self._wake(outcome.server_id)
        if server["status"] == "ACTIVE" and server["OS-EXT-SRV-ATTR:host"] == outcome.host:
            outcome.status, outcome.why = "ACTIVE", ""


def victims(what: str, spaces: set[str], supervisor: int) -> list[int]:
    """Processes of one kind in this cloud."""
    found = []
    inside = processes_in(spaces) if what != "controller" else _children(supervisor)
    for pid in inside:
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            if MARKS[what] in command and not command.startswith(WRAPPERS):
                found.append(pid)
    return sorted(found)


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


async def kill_at_random(env: Env, chance: random.Random, spaces: set[str], supervisor: int, kills: dict[str, int]) -> None:
    while True:
        await env.sleep(chance.uniform(*PAUSE_S))
        what = chance.choice(sorted(MARKS))
        found = victims(what, spaces, supervisor)
        if found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(chance.choice(found), signal.SIGKILL)
                kills[what] = kills.get(what, 0) + 1


def _spaces() -> set[str]:
    folder = Path("/run/netns")
    return {entry.name for entry in folder.iterdir() if entry.name.startswith("vgu") and "-host-" in entry.name} if folder.exists() else set()


async def soak(env: Env, chance: random.Random, guests: int, rounds: int) -> tuple[list[str], str]:
    """(what went wrong, the result in one line)."""
    bad: list[str] = []
    outcomes: list[Outcome] = []
    kills: dict[str, int] = {}
    founding: Soaked | None = None
    before = _spaces()
    with tempfile.TemporaryDirectory(prefix="virga-soak-", ignore_cleanup_errors=True) as folder:
        child = Child(env, Path(folder), ["--hosts", "2", "--hypervisor", "libvirt", "--virt-type", "qemu"])
        try:
            await child.ready(120)
            spaces = {name for name in _spaces() - before if "-q" not in name}
            async with Patient(find_login(folder)) as client:
                founding = Soaked(env, client, servers=guests, say=lambda phase, done: None, folder=Path(folder), timeout_s=400)
                try:
                    await founding.prepare()
                    for number in range(1, rounds + 1):
                        killer = asyncio.ensure_future(kill_at_random(env, chance, spaces, child.process.pid, kills))
                        try:
                            outcomes += await founding.round(number)
                        finally:
                            killer.cancel()
                        print(f"round {number}: {count(outcomes).line}; kept {sum(o.disk == 'kept' for o in outcomes)}; kills {kills}; "
                              f"started again {founding.started}, asked again {founding.asked_again}", flush=True)
                        for outcome in outcomes[-guests:]:
                            if not outcome.good or outcome.disk != "kept":
                                bad.append(f"{outcome.server} round {number}: {outcome.status} {outcome.disk} {outcome.why}")
                                print("BAD", bad[-1], flush=True)
                finally:
                    founding.close()
        except ClientError as error:
            bad.append(f"the soak ended early: {error}")
        finally:
            if bad:
                _keep(Path(folder))
            child.stop()
    good = sum(outcome.good and outcome.disk == "kept" for outcome in outcomes)
    helped = f"; servers started again {founding.started}, moves asked for again {founding.asked_again}" if founding is not None else ""
    return bad, f"{good} of {rounds * guests} while killed -9: {kills}{helped}"


def _keep(folder: Path) -> None:
    """Logs and database of a soak that went wrong, for whoever looks into it."""
    kept = Path(tempfile.mkdtemp(prefix="virga-soak-kept-"))
    for name in ("virga.log", "controller.out", "virga.db", "virga.db-wal", "clouds.yaml"):
        with contextlib.suppress(OSError):
            (kept / name).write_bytes((folder / name).read_bytes())
    for log in folder.glob("hosts/*/agent.out"):
        (kept / f"{log.parent.name}.out").write_bytes(log.read_bytes())
    print(f"logs of it are in {kept}", flush=True)
