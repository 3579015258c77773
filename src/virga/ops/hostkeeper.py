"""Keeps every connected host shown the newest picture of its networks.

Woken by hints (rows of networks, ports, bindings, hosts or servers changed), by a host's fresh session, and slowly by a timer in case a hint was
lost; it collects a few milliseconds of changes, reads one snapshot, and hands each host's view to the hub, which sends it if it is news. It holds
nothing: a controller that was away for a day sends the same view as one that never was.
"""
from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

import msgspec

from virga.domain.config import Config
from virga.domain.hostview import HostView
from virga.domain.placement import Host
from virga.ops.hostview import Picture, arrange, is_arranged, wants_view
from virga.runtime.env import Env
from virga.runtime.trace import Trace
from virga.store.db import Db, Tx

COLLECT_S = 0.003
RESYNC_PERIOD_S = 30.0
ROOMS = ("hostview", "port", "host", "changed", "opened")

Show = Callable[[str, str, dict[str, object]], None]


class HostKeeper:
    """`show(host, version, view as builtins)` hands a view on; `wake` says that something may be new."""

    def __init__(self, env: Env, db: Db, trace: Trace, config: Config, show: Show) -> None:
        self._env, self._db, self._trace, self._config, self._show = env, db, trace, config, show
        self._wake = asyncio.Event()
        self._wanted = True  # until the first look: whether any host wants a view at all
        self.rounds = 0
        db.on_commit(self._heard)

    def _heard(self, hints: Collection[str]) -> None:
        for hint in hints:
            room = hint.partition(":")[0]
            if room in ROOMS and (self._wanted or room in ("host", "hostview")):
                self._wake.set()
                return

    def wake(self, _host: str = "") -> None:
        self._wake.set()

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            await self._env.wait_woken(self._wake, RESYNC_PERIOD_S)
            await self._env.sleep(COLLECT_S)
            self._wake.clear()
            try:
                await self.round()
            except Exception as error:
                self._trace.emit("fault", "hostview", "", f"views not built: {error!r}")
                await self._env.sleep(1.0)
                self._wake.set()

    async def round(self) -> None:
        """One look at everything: arrange what is missing, show what there is."""
        ready = await self._db.read(self._ready)
        if ready is None:
            return
        if not ready:
            await self._db.run(lambda tx: arrange(tx, self._config))
        self.rounds += 1
        for view in await self._db.read(self._views):
            self._show(view.host, view.version, msgspec.to_builtins(view))

    def _ready(self, tx: Tx) -> bool | None:
        self._wanted = any(wants_view(host) for host in tx.find(Host))
        return is_arranged(tx) if self._wanted else None

    def _views(self, tx: Tx) -> list[HostView]:
        picture = Picture(tx, self._config)
        return [picture.view(name) for name in picture.watchers()]
