"""The wiring driver without kernel events: taps, and what the controller says of them, are noticed by a look every `polling_interval` seconds.

Owns: nothing of its own on the host; it is the driver of linuxbridge.py (`minimize_polling = false` in [network]) with another answer to "when". It is
there for hosts whose kernel events cannot be had, and to measure what events are worth.
Rules: as an agent that is only told by looking: `wire` makes the tap and leaves it alone; the next look finds it, bridges it, takes the newest view into
effect, and only then is the port wired. A look that finds a tap before its view has come serves it one look later. What changed by itself between two
looks is reported at the second. The agent sleeps the rest of its interval, so its phase is nobody's choice.
"""
from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from virga.agent.hypervisor import DriverError, Nic
from virga.agent.linuxbridge import LinuxBridgeWiring, WiringOptions
from virga.runtime.env import Env

PAUSE_MIN_S = 0.05
Seen = dict[str, tuple[int, int, bool]]  # tap -> (index, index of its bridge, up)


class PollingWiring(LinuxBridgeWiring):
    """agent.hypervisor.WiringDriver by looking."""

    def __init__(self, env: Env, options: WiringOptions) -> None:
        super().__init__(env, options)
        self._unseen: dict[str, Nic] = {}  # taps made since the last look
        self._last_seen: Seen = {}
        self._resynced_at = env.monotonic()

    def _listen(self) -> None:
        """Nothing is listened to."""

    async def apply(self, view: dict[str, Any]) -> None:
        """The next look takes it into effect."""
        await self._take(view)

    async def wire(self, nic: Nic) -> None:
        if not self._bridged(nic):
            await self._ensure_tap(nic, bridged=False)
            self._unseen[nic.tap] = nic
        await self._wait_for_view(nic)

    def _bridged(self, nic: Nic) -> bool:
        """Whether an earlier look has done what this one could."""
        links = self._find_taps()
        bridge = links.get(nic.bridge)
        return (self._taps.get(nic.tap) == (nic.port_id, nic.generation) and bridge is not None and bridge.up
                and links[nic.tap].master == bridge.index and links[nic.tap].up)

    def _ready(self, nic: Nic) -> bool:
        return nic.tap not in self._unseen and super()._ready(nic)

    async def unwire(self, port_id: str) -> None:
        await self._remove_tap(port_id)
        self._unseen.pop("tap" + port_id[:11], None)
        if self.view.port(port_id) is None:
            self._dirty.set()

    async def _look_for_ever(self) -> None:
        while True:
            began = self.env.monotonic()
            with contextlib.suppress(DriverError, OSError):
                await self._look()
            await self.env.sleep(max(PAUSE_MIN_S, self.options.polling_interval_s - (self.env.monotonic() - began)))

    async def _look(self) -> None:
        """What is new is bridged, the newest view is taken into effect, what changed is told."""
        for nic in list(self._unseen.values()):
            with contextlib.suppress(DriverError):  # tried again at the next look; whoever waits for it has its own deadline
                await self._wire_now(nic)
                if self._unseen.get(nic.tap) == nic:
                    del self._unseen[nic.tap]
        overdue = self.env.monotonic() - self._resynced_at >= self.options.resync_interval_s
        if self.view.version and (self._served != self.view.version or self._dirty.is_set() or overdue):
            self._dirty.clear()
            if overdue:
                self._resynced_at = self.env.monotonic()
                self._floods.clear()
            await self._settle(again=overdue and not await self.firewall.loaded())
        self._move_on()
        self._tell_changes()

    def _tell_changes(self) -> None:
        links = self._find_taps()
        now: Seen = {name: (links[name].index, links[name].master, links[name].up) for name in self._taps if name in links}
        changed = [name for name in {**self._last_seen, **now} if now.get(name) != self._last_seen.get(name)]
        self._last_seen = now
        for name in changed:
            self._changed(self._taps[name][0] if name in self._taps else "")


def wiring_for(env: Env, options: WiringOptions) -> LinuxBridgeWiring:
    """The driver that these options ask for."""
    make: Callable[[Env, WiringOptions], LinuxBridgeWiring] = LinuxBridgeWiring if options.minimize_polling else PollingWiring
    return make(env, options)
