"""Reconcilers: nobody asks them anything; on a timer and on hints they look at rows and put right what no operation is responsible for.

    power      a guest that stopped, crashed or was paused by itself: its server shows it         (only servers no operation holds)
    orphans    a guest on a host where its server has no business: purged, when its server is certain to live elsewhere or to be gone
    leftovers  operations whose lease ran out are the engine's own scan; purges for hosts that were away lie in the outbox; old closed rows are dropped
    unconfirmed resize_confirm_window > 0: resized servers older than it are confirmed
    shelved     shelved_offload_time >= 0: servers shelved that long are offloaded

The orphan rule never touches a last copy: a disk is purged only if the server is deleted, or its active host reports a disk of its own.
"""
from __future__ import annotations

import asyncio
import traceback
from collections.abc import Collection

from virga.domain.ask import Ask
from virga.domain.config import Config
from virga.domain.errors import Problem
from virga.domain.operation import ABSENT, CRASHED, OPEN, PAUSE, PENDING, RUN, STOP, SUSPEND, Command, Guest, Migration, Operation, Step
from virga.domain.placement import Claim
from virga.domain.server import ACTIVE, ERROR, PAUSED, POWER, RESCUED, RESIZED, SHELVED, STOPPED, SUSPENDED, Server
from virga.ops import front
from virga.ops.delete import MOVE_OPEN
from virga.ops.procedure import queue
from virga.runtime.env import Env
from virga.runtime.trace import Trace
from virga.store.db import Db, Op, Tx

PERIOD_S = 10.0
SETTLE_S = 0.5  # hints are let gather for this long: most servers are in an operation's hands, and need nobody else
KEEP_CLOSED_S = 7 * 24 * 3600.0
DROP_ROWS_MAX = 500


class Reconciler:
    """Runs the passes above. Each pass is one transaction and may be run at any time, any number of times."""

    def __init__(self, env: Env, db: Db, trace: Trace, config: Config, period_s: float = PERIOD_S) -> None:
        self.env, self.db, self.trace, self.config, self.period_s = env, db, trace, config, period_s
        self._servers: set[str] = set()
        self._wake = asyncio.Event()
        db.on_commit(self._heard)

    def _heard(self, hints: Collection[str]) -> None:
        for hint in hints:
            if hint.startswith(("server:", "changed:")):
                self._servers.add(hint.partition(":")[2])
        if self._servers:
            self._wake.set()

    async def run(self) -> None:
        """Run until cancelled."""
        next_full_at = self.env.monotonic()
        while True:
            now = self.env.monotonic()
            full = now >= next_full_at
            if full:
                next_full_at = now + self.period_s
            servers, self._servers = self._servers, set()
            await self.look(None if full else servers)
            self._wake.clear()
            if not self._servers:
                await self.env.wait_woken(self._wake, max(0.0, next_full_at - self.env.monotonic()))
            await self.env.sleep(SETTLE_S)

    async def look(self, servers: set[str] | None) -> None:
        """One pass over the named servers, or over everything."""
        try:
            if servers is None or servers:
                needs = await self.db.read(lambda tx: needs_of(tx, servers))
                if needs:
                    await self.db.run(lambda tx: put_right(tx, needs))
                await self._offload_shelved(servers)
            if servers is None:
                await self._confirm_old()
                await self.db.run(drop_closed)
                await self.db.run(drop_claims)
        except Exception as error:
            self.trace.emit("fault", "reconciler", "", f"pass failed: {error!r}", traceback=traceback.format_exc())

    async def _offload_shelved(self, servers: set[str] | None) -> None:
        """Shelved servers give their host back after shelved_offload_time; every shelving changes `updated_at`."""
        after_s = self.config.compute.shelved_offload_time
        if after_s < 0:
            return

        def waiting(tx: Tx) -> list[Server]:
            found = tx.find(Server, vm_state=SHELVED, deleted_at=None, operation_id=None, task_state=None)
            old = [server for server in found if tx.now - (server.updated_at or 0.0) >= after_s]
            return old if servers is None else [server for server in old if server.id in servers]

        def closure(tx: Tx) -> None:
            for server in waiting(tx):
                try:
                    front.shelve_offload(tx, Ask(self.config, server.project_id, server.user_id, "req-" + tx.new_id(), True), server)
                except Problem as problem:  # its snapshot is gone: it stays where its disk is
                    tx.emit("fault", "reconciler", "", f"not offloaded: {problem.message}", server=server.id)

        if await self.db.read(waiting):
            await self.db.run(closure)

    async def _confirm_old(self) -> None:
        window_s = self.config.compute.resize_confirm_window
        if window_s <= 0:
            return

        def closure(tx: Tx) -> None:
            for migration in tx.find(Migration, status="finished"):
                server = tx.get(Server, migration.server_id)
                if server is not None and server.vm_state == RESIZED and server.operation_id is None and tx.now - migration.updated_at >= window_s:
                    front.confirm(tx, Ask(self.config, server.project_id, server.user_id, "req-" + tx.new_id(), True), server)

        await self.db.run(closure)


SEEN = {RUN: (ACTIVE, POWER["running"]), STOP: (STOPPED, POWER["stopped"]), CRASHED: (STOPPED, POWER["crashed"]), PAUSE: (PAUSED, POWER["paused"]),
        SUSPEND: (SUSPENDED, POWER["suspended"])}


def needs_of(tx: Tx, servers: set[str] | None) -> list[str]:
    """Ids of servers whose rows disagree with their guests; a read, so that the usual case writes nothing."""
    guests = tx.find(Guest) if servers is None else [guest for server_id in sorted(servers) for guest in tx.find(Guest, server_id=server_id)]
    return sorted({guest.server_id for guest in guests if _power_differs(tx, guest) or _is_orphan(tx, guest)})


def put_right(tx: Tx, servers: list[str]) -> None:
    for server_id in servers:
        for guest in tx.find(Guest, server_id=server_id):
            if _power_differs(tx, guest):
                vm_state, power_state = SEEN[guest.state]
                shown = tx.need(Server, server_id).vm_state
                tx.update(Server, server_id, vm_state=shown if shown in (RESCUED, RESIZED) else vm_state, power_state=power_state, updated_at=tx.now)
                tx.emit("transition", "reconciler", "store", f"server is {vm_state}, as its guest on {guest.host}", server=server_id)
            elif _is_orphan(tx, guest):
                server = tx.get(Server, server_id)
                epoch = max(guest.epoch, server.epoch if server else 0)
                queue(tx, guest.host, "purge", server_id, epoch, {}, operation_id="", step="orphan", command_id=f"orphan/{server_id}/{guest.host}/{epoch}")


def _power_differs(tx: Tx, guest: Guest) -> bool:
    server = tx.get(Server, guest.server_id)
    if server is None or server.host != guest.host or server.operation_id is not None or server.task_state is not None or guest.state not in SEEN:
        return False
    if server.vm_state in (ACTIVE, STOPPED, PAUSED, SUSPENDED):
        return (server.vm_state, server.power_state) != SEEN[guest.state]
    return server.vm_state in (RESCUED, RESIZED) and server.power_state != SEEN[guest.state][1]


def _is_orphan(tx: Tx, guest: Guest) -> bool:
    """A guest or disk that belongs nowhere: its server is deleted, or lives on another host that reports a disk of its own."""
    if guest.state == ABSENT and not guest.disk:
        return False
    server = tx.get(Server, guest.server_id)
    if server is None:
        return False  # not a server of ours: an operator's own guest is none of our business
    if server.deleted_at is None and server.host == guest.host:
        return False
    if tx.find(Command, host=guest.host, server_id=guest.server_id, state=PENDING, limit=1):
        return False
    if server.deleted_at is not None:
        return True
    if server.operation_id is not None or server.host == guest.host or server.host is None or server.vm_state == ERROR:
        return False
    if tx.find(Migration, server_id=server.id, status=list(MOVE_OPEN), limit=1):
        return False
    home = tx.get(Guest, server.id, server.host)
    return home is not None and home.disk and home.state in (RUN, STOP, PAUSE, SUSPEND)


def drop_claims(tx: Tx) -> None:
    """Give back room that a move holds although it is over: one whose undo failed too leaves it, for as long as its server is in ERROR."""
    for claim in tx.find(Claim, kind="migration"):
        migration, server = tx.get(Migration, claim.owner), tx.get(Server, claim.server_id)
        over = migration is None or migration.status not in MOVE_OPEN
        if over and (server is None or (server.operation_id is None and server.vm_state != ERROR)):
            tx.delete(Claim, claim.host, claim.owner)
            tx.emit("transition", "reconciler", "store", f"room on {claim.host} given back", server=claim.server_id)


def drop_closed(tx: Tx) -> None:
    """Forget operations, steps and commands that ended long ago; instance actions and migrations stay."""
    for op in tx.find(Operation, ended_at=Op("<", tx.now - KEEP_CLOSED_S), limit=DROP_ROWS_MAX):
        if op.state in OPEN or op.kind == "shelve":
            continue
        tx.delete_where(Step, operation_id=op.id)
        tx.delete_where(Command, operation_id=op.id)
        tx.delete(Operation, op.id)
