"""The founding case as a client runs it: N servers, resize all, revert all, round after round, and every disk looked at.

Owns: what is asked of the API and what counts as good. A revert is good when the server is ACTIVE on the host it came from and the disk there has the
very bytes it had before the resize. So that this can fail, the resized guest must have written: its disk on the other host has to differ.
Rules: nothing but public calls (compute, image, network) and /virga/v1 for disks; a server that goes wrong is one bad outcome and the rest go on.
`say` is called with a short phase and how many servers are through, for whatever display there is.
"""
from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from virga.cli_client import Client, ClientError, Refused
from virga.runtime.env import Env

POLL_S = 0.03
SMALL, LARGE = "m1.nano", "m1.micro"
NETWORK = "private"


class Outcome(msgspec.Struct):
    """One server in one round. `disk` is kept, lost or unknown (a driver whose disks cannot be compared while the guest runs)."""

    server: str
    server_id: str
    round: int
    status: str = ""
    host: str = ""
    other_host: str = ""
    resize_s: float | None = None
    revert_s: float | None = None
    wired_s: float | None = None  # real guests: revert asked -> port wired on the old host
    back_s: float | None = None  # real guests: revert asked -> logged in again
    gap_s: float | None = None  # real guests: the longest silence of its ping around the revert
    reverted: bool = False  # whether a revert was asked for
    disk: str = "unknown"
    why: str = ""

    @property
    def good(self) -> bool:
        return self.reverted and self.status == "ACTIVE" and self.disk != "lost" and not self.why


class Totals(msgspec.Struct):
    """The last line of the demo."""

    reverts: int
    active: int
    error: int
    disks_lost: int

    @property
    def line(self) -> str:
        return f"reverts {self.reverts} active {self.active} error {self.error} disks-lost {self.disks_lost}"


def count(outcomes: list[Outcome]) -> Totals:
    """ACTIVE counts only on the host it came from; everything that did not end so is an error."""
    reverts = sum(outcome.reverted for outcome in outcomes)
    active = sum(outcome.reverted and outcome.status == "ACTIVE" and not outcome.why for outcome in outcomes)
    return Totals(reverts, active, len(outcomes) - active, sum(outcome.disk == "lost" for outcome in outcomes))


Say = Callable[[str, int], None]


class Founding:
    """A run of the founding case against one cloud."""

    def __init__(self, env: Env, client: Client, *, servers: int, say: Say, timeout_s: float = 60.0, poll_s: float = POLL_S) -> None:
        self.env, self.client, self.say = env, client, say
        self.wanted, self.timeout_s, self.poll_s = servers, timeout_s, poll_s
        self.servers: list[dict[str, Any]] = []
        self.flavors: dict[str, str] = {}

    # before ---------------------------------------------------------------------------------------------------------
    async def prepare(self) -> None:
        """Find flavors, image and network; create the servers. Raises ClientError when one does not become ACTIVE."""
        listed = (await self.client.get("compute", "/flavors"))["flavors"]
        self.flavors = {flavor["name"]: flavor["id"] for flavor in listed}
        for name in (SMALL, LARGE):
            if name not in self.flavors:
                raise ClientError(f"the cloud has no flavor {name}")
        images = (await self.client.get("image", "/v2/images?status=active"))["images"]
        if not images:
            raise ClientError("the cloud has no active image")
        networks = (await self.client.get("network", f"/v2.0/networks?name={NETWORK}"))["networks"]
        nics: Any = [{"uuid": networks[0]["id"]}] if networks else "none"
        self.say("create", 0)
        self._done = 0

        async def one(number: int) -> dict[str, Any]:
            body = await self.create_body(
                {"name": f"demo-{number}", "flavorRef": self.flavors[SMALL], "imageRef": images[0]["id"], "networks": nics})
            made = (await self.client.post("compute", "/servers", {"server": body}, version="2.37"))["server"]
            server = await self._until(made["id"], "ACTIVE", "ERROR")
            if server["status"] != "ACTIVE":
                raise ClientError(f"{server['name']} did not become ACTIVE: {await self._fault(server)}")
            self._through("create")
            return server

        self.servers = list(await asyncio.gather(*(one(number) for number in range(1, self.wanted + 1))))

    async def create_body(self, body: dict[str, Any]) -> dict[str, Any]:
        """The request that makes a server; a kind of guest that needs more puts it in here."""
        return body

    def close(self) -> None:
        """End whatever watches the guests."""

    def _through(self, phase: str) -> None:
        self._done += 1
        self.say(phase, self._done)

    # a round --------------------------------------------------------------------------------------------------------
    async def round(self, number: int) -> list[Outcome]:
        """Resize all at once, look at the disks, revert all at once, look again."""
        outcomes = [Outcome(server["name"], server["id"], number) for server in self.servers]
        before: dict[str, dict[str, dict[str, Any]]] = {}

        async def note(outcome: Outcome) -> None:
            before[outcome.server_id] = await self._disks(outcome.server_id)

        async def resize(outcome: Outcome) -> None:
            outcome.resize_s = await self._resize(outcome)

        async def revert(outcome: Outcome) -> None:
            if not outcome.why:
                await self._check_written(outcome, before.get(outcome.server_id, {}))
                await self._revert(outcome)
                await self._check_kept(outcome, before.get(outcome.server_id, {}))

        await self._all("note", outcomes, note)
        await self._all("resize", outcomes, resize)
        await self._all("revert", outcomes, revert)
        return outcomes

    async def _all(self, phase: str, outcomes: list[Outcome], work: Callable[[Outcome], Awaitable[None]]) -> None:
        self._done = 0
        self.say(phase, 0)

        async def one(outcome: Outcome) -> None:
            try:
                await work(outcome)
            except Refused as refused:
                outcome.why = outcome.why or f"{phase}: {refused}"
            self._through(phase)

        await asyncio.gather(*(one(outcome) for outcome in outcomes))

    async def _resize(self, outcome: Outcome) -> float:
        server = (await self.client.get("compute", f"/servers/{outcome.server_id}"))["server"]
        outcome.host = server["OS-EXT-SRV-ATTR:host"]
        began = self.env.monotonic()
        await self.client.post("compute", f"/servers/{outcome.server_id}/action", {"resize": {"flavorRef": self.flavors[LARGE]}})
        server = await self._until(outcome.server_id, "VERIFY_RESIZE", any_end=True)
        took_s = self.env.monotonic() - began
        outcome.status, outcome.other_host = server["status"], server["OS-EXT-SRV-ATTR:host"]
        if server["status"] != "VERIFY_RESIZE":
            outcome.why = f"the resize ended as {server['status']}: {await self._fault(server)}"
        return took_s

    async def _revert(self, outcome: Outcome) -> None:
        outcome.reverted = True
        began = self.env.monotonic()
        await self.client.post("compute", f"/servers/{outcome.server_id}/action", {"revertResize": None})
        server = await self._until(outcome.server_id, "ACTIVE", any_end=True)
        outcome.revert_s = self.env.monotonic() - began
        outcome.status = server["status"]
        here = server["OS-EXT-SRV-ATTR:host"]
        if server["status"] != "ACTIVE":
            outcome.why = f"the revert ended as {server['status']}: {await self._fault(server)}"
        elif here != outcome.host:
            outcome.why = f"it is ACTIVE on {here} instead of {outcome.host}"

    async def _until(self, server_id: str, *wanted: str, any_end: bool = False) -> dict[str, Any]:
        """Poll until the server has no task and one of the statuses; with `any_end`, when its task has ended, however it did."""
        end = self.env.monotonic() + self.timeout_s
        while True:
            server: dict[str, Any] = (await self.client.get("compute", f"/servers/{server_id}"))["server"]
            idle = server["OS-EXT-STS:task_state"] is None
            if idle and (any_end or server["status"] in wanted):
                return server
            if self.env.monotonic() > end:
                raise ClientError(f"{server['name']} is {server['status']} after {self.timeout_s:.0f} s instead of {wanted[0]}; "
                                  f"`virga explain {server['name']}` says what it waits for")
            await self.env.sleep(self.poll_s)

    async def _fault(self, server: dict[str, Any]) -> str:
        """Why: the compute API shows a fault only of servers in ERROR, an undone operation keeps its own error."""
        told = (await self.client.get("virga", f"/servers/{server['id']}/explain"))["explanation"]
        fault = told["server"]["fault"] or {}
        return str((told["operation"] or {}).get("error") or fault.get("message") or "no reason is recorded")

    # disks ----------------------------------------------------------------------------------------------------------
    async def _disks(self, server_id: str) -> dict[str, dict[str, Any]]:
        disks = (await self.client.get("virga", f"/servers/{server_id}/disk"))["disks"]
        return {disk["host"]: disk for disk in disks}

    async def _check_written(self, outcome: Outcome, before: dict[str, dict[str, Any]]) -> None:
        """The other host's disk must differ by now, or the comparison after the revert would prove nothing."""
        old, new = before.get(outcome.host), (await self._disks(outcome.server_id)).get(outcome.other_host)
        if new is None:
            outcome.why = f"{outcome.other_host} reports no disk after the resize"
        elif old is not None and "data" in old and old["sha256"] == new.get("sha256"):
            outcome.why = "the resized guest wrote nothing; its disk cannot be told from the old one"

    async def _check_kept(self, outcome: Outcome, before: dict[str, dict[str, Any]]) -> None:
        """Emulated disks are compared byte by byte; a running real guest writes, so there only the disk's being there counts as known."""
        old, new = before.get(outcome.host), (await self._disks(outcome.server_id)).get(outcome.host)
        if new is None or new["error"]:
            outcome.disk = "lost" if new is None else "unknown"
        elif old is not None and "data" in old:
            outcome.disk = "kept" if old["data"] == new.get("data") else "lost"

