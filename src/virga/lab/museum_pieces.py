"""The pieces of the museum: each a named mutant that brings one hazard of the facts file (2.7) or one of its crash points back.

Owns: the catalogue. A piece is a small change to a cloud that is otherwise healed of the hazard (`base`): one rule turned back, or one part replaced by a
subclass of a few lines. `pool` are the faults that may be drawn beside it, `rule` the promise that gets broken, `control` what was shown to keep the
promise under the same lot: the base cloud (same seeds), or Virga (the same ill luck on its
real engine and agents, since no Kilo code survives it there).
"""
from __future__ import annotations

import msgspec

from virga.domain.server import Server
from virga.lab import kilo_rules as rules
from virga.lab.kilo import HOST_A, HOST_B
from virga.lab.kilo_compute import ComputeManager
from virga.lab.kilo_libvirt import LibvirtDriver, Vif
from virga.lab.kilo_network import Event, NetworkServer
from virga.lab.kilo_rules import ERAS, HEALED, Rules
from virga.lab.museum_scene import Cast

BASE, VIRGA = "base", "virga"


class Piece(msgspec.Struct, frozen=True):
    """One mutant. `point`: the named point a crash has to come after (and no later one) to count as this crash point."""

    name: str
    hazard: str
    change: str
    mutant: Cast
    rule: str
    base: Cast = Cast(HEALED)
    pool: tuple[str, ...] = ()
    ports: int = 1
    settle_s: float = 20.0
    control: str = BASE
    point: str = ""


# parts that a rule cannot change ---------------------------------------------------------------------------------------
class BindTimeNetwork(NetworkServer):
    """A backend that says ACTIVE as soon as the port is bound, before anybody can have registered a waiter."""

    async def update_port_host(self, port_id: str, host: str, caller: str, parent: int) -> None:
        await super().update_port_host(port_id, host, caller, parent)
        self.env.spawn(self._at_once(port_id), "bind-time event")

    async def _at_once(self, port_id: str) -> None:
        await self.env.sleep(self.cloud.delay("rpc") * 4)
        port = self.cloud.store.ports.get(port_id)
        if port is not None and port.status != rules.ACTIVE:
            port.status = rules.ACTIVE
            await self.send([Event(rules.PLUGGED, port.server_id, port_id, host=port.host)])


class SlowDriver(LibvirtDriver):
    """Volumes and XML take their time between the read of the network info and the registration."""

    async def _create_domain_and_network(self, server: Server, vifs: list[Vif], parent: int, *, already_plugged: bool) -> None:
        await self.env.sleep(self.cloud.delay("copy") / 2)
        await super()._create_domain_and_network(server, vifs, parent, already_plugged=already_plugged)


class SlowManager(ComputeManager):
    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]  # the same three
        self.driver = SlowDriver(self.cloud, self)


class EarlyPlugDriver(LibvirtDriver):
    """Taps plugged first, then volumes and XML, then the waiters: what happens in between is nobody's."""

    async def _create_domain_and_network(self, server: Server, vifs: list[Vif], parent: int, *, already_plugged: bool) -> None:
        if not already_plugged:
            for port in self.cloud.store.ports_of(server.id):
                self.machine.journal.put("tap/" + port.id, self.cloud.next_index())
            await self.env.sleep(self.cloud.delay("copy") * 4)
        await super()._create_domain_and_network(server, vifs, parent, already_plugged=already_plugged)

    async def _create_domain(self, server: Server, *, paused: bool) -> None:
        """The taps that are there already are used."""
        index = {port.id: self.machine.journal.values.get("tap/" + port.id) for port in self.cloud.store.ports_of(server.id)}
        await super()._create_domain(server, paused=paused)
        for port_id, old in index.items():
            if old is not None:
                self.machine.journal.put("tap/" + port_id, old)


class EarlyPlugManager(ComputeManager):
    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]  # the same three
        self.driver = EarlyPlugDriver(self.cloud, self)


class AnyoneDownNetwork(NetworkServer):
    """update_device_down without the host compare."""

    async def update_device_down(self, port_id: str, host: str, parent: int) -> None:
        await self.env.sleep(self.cloud.delay("rpc"))
        port = self.cloud.store.ports.get(port_id)
        if port is not None:
            self._set_status(port, rules.DOWN, f"update_device_down({host})", parent)


class LateHostManager(ComputeManager):
    """The server's row names the old host until the very end."""

    async def _take_back(self, server_id: str) -> None:
        return

    async def _save(self, server_id: str, expected: tuple[str | None, ...] | None = None, **changes: object) -> None:
        if changes.get("vm_state") == "active":
            changes = {**changes, "host": self.host}
        await super()._save(server_id, expected, **changes)


# the catalogue ---------------------------------------------------------------------------------------------------------
def _but(**changes: object) -> Cast:
    """The healed cloud with some rules turned back."""
    return Cast(msgspec.structs.replace(HEALED, **changes))


_LAST = msgspec.structs.replace(HEALED, rebind=rules.LAST, rereads=False, waits_on_revert=False, rebind_resets_status=False,
                                details_reset_active=True)
_NAMELESS = msgspec.structs.replace(HEALED, events_name_binding=False)
_UNFOLLOWED: Rules = msgspec.structs.replace(HEALED, events_follow_migration=False)
_A, _B = f":{HOST_A}", f":{HOST_B}"

PIECES: tuple[Piece, ...] = (
    Piece("event-before-waiter", "1", "the backend reports at bind time", Cast(HEALED, SlowManager, BindTimeNetwork), "hang",
          base=Cast(HEALED, SlowManager)),
    Piece("registration-gap", "2", "taps are plugged seconds before the waiters are registered", Cast(HEALED, EarlyPlugManager), "hang"),
    Piece("stale-active", "3", "network info is not read again after the rebind", _but(rereads=False), "unwired"),
    Piece("late-down", "4", "update_device_down believes any host", Cast(HEALED, network=AnyoneDownNetwork), "no-network",
          pool=("slow_agent" + _B, "kill_agent" + _B)),
    Piece("down-lost-by-rebind", "5", "a rebind leaves the port's status alone", _but(rebind_resets_status=False), "status-lies"),
    Piece("foreign-build", "6", "the agent does not name its host when it asks for details", Cast(msgspec.structs.replace(_LAST, details_tell_host=False)),
          "foreign", base=Cast(_LAST), pool=("kill_manager" + _A,)),
    Piece("up-from-unbound-host", "7", "an up from a host the port is not bound to sends plugged", _but(unbound_up_notifies=True), "unwired",
          pool=("slow_agent_early" + _B,), settle_s=2.0),
    Piece("stale-event", "8", "events do not say which binding they are about", Cast(_NAMELESS), "unwired", pool=("slow_batch",), settle_s=2.0),
    Piece("resync-flapping", "9", "a details call makes an ACTIVE port BUILD", _but(details_reset_active=True), "flap", pool=("kill_agent_at_rest" + _A,)),
    Piece("replug-within-a-poll", "10", "the agent compares names only", _but(agent_compares_index=False), "status-lies", pool=("reboot",)),
    Piece("edit-flaps-status", "11", "any edit of a binding sets the port DOWN", _but(edit_resets_status=True), "flap", pool=("edit",)),
    Piece("event-lost", "12", "the notifier does not try again", _but(events_retry=False), "hang", pool=("lose_batch",)),
    Piece("batch-poisoned", "13", "one bad event ends its batch", _but(batch_survives=False), "hang", pool=("poison",)),
    Piece("wrong-host-routing", "14", "the server's row names the old host to the end, and events go only there",
          Cast(_UNFOLLOWED, LateHostManager), "hang", base=Cast(HEALED, LateHostManager)),
    Piece("graceful-stop", "16", "an orderly stop fails every waiter, and failing deletes", _but(failed_plug_deletes_disks=True), "disk-lost",
          pool=("stop_manager" + _A,)),
    Piece("delete-clears-waiters", "17", "forgetting waiters wakes nobody", _but(clear_signals=False), "hang", pool=("delete",)),
    Piece("delete-during-revert", "18", "none: the healed cloud has it too", Cast(HEALED), "orphan", pool=("delete",), control=VIRGA),
    Piece("left-host-down", "19", "none: nobody asks whether host_B is alive", Cast(HEALED), "stuck", pool=("manager_gone" + _B,), control=VIRGA),
    Piece("right-host-down", "20", "none: the guest is destroyed before host_A is known to be alive", Cast(HEALED), "nowhere", pool=("manager_gone" + _A,),
          control=VIRGA),
    Piece("agent-down-at-rebind", "21", "none: nobody checks what came of the rebind", Cast(HEALED), "hang", pool=("agent_gone" + _A,), control=VIRGA),
    Piece("reverted-too-early", "22", "host_B writes `reverted`", _but(reverted_by_target=False), "record-lies", pool=("kill_manager" + _A,)),
    Piece("half-a-port-list", "25", "the revert of 2015.1.0, with two ports", Cast(ERAS[rules.KILO_0]), "mixed", ports=2),
    Piece("the-founding-case", "report", "the revert of 2015.1.0", Cast(ERAS[rules.KILO_0]), "hang"),
    Piece("crash-api", "crash 1", "the API is killed between save and cast", Cast(HEALED), "stuck", pool=("api_dies",), control=VIRGA),
    Piece("crash-before-destroy", "crash 2", "host_B's manager is killed before it destroys", Cast(HEALED), "stuck", pool=("kill_manager" + _B,), control=VIRGA,
          point="revert_begun"),
    Piece("crash-after-destroy", "crash 3", "host_B's manager is killed before its cast", Cast(HEALED), "nowhere", pool=("kill_manager" + _B,), control=VIRGA,
          point="guest_destroyed"),
    Piece("cast-lost", "crash 4", "the cast to host_A is lost", Cast(HEALED), "nowhere", pool=("lose_cast",), control=VIRGA, point="guest_destroyed"),
    Piece("crash-before-spawn", "crash 5", "host_A's manager is killed before it starts the guest", Cast(HEALED), "nowhere", pool=("kill_manager" + _A,),
          control=VIRGA, point="host_saved"),
    Piece("crash-in-wait", "crash 6, 15", "host_A's manager is killed while it waits", Cast(HEALED), "nowhere", pool=("kill_manager" + _A,), control=VIRGA,
          point="guest_started"),
    Piece("crash-before-rebind", "crash 7", "host_A's manager is killed after the spawn, before Kilo's rebind",
          Cast(msgspec.structs.replace(HEALED, rebind=rules.LAST, rereads=False, waits_on_revert=False)), "stuck", pool=("kill_manager" + _A,), control=VIRGA,
          point="before_rebind"),
    Piece("crash-before-final-save", "crash 8", "host_A's manager is killed before its last save", Cast(HEALED), "stuck", pool=("kill_manager" + _A,),
          control=VIRGA, point="before_final_save"),
)

# Hazards without a piece, and why; docs/museum.md repeats these sentences.
NOT_SHOWN = {
    "23": "same-host resize: Kilo's finish_migration never waits, so clearing the waiters after the cast takes nothing from anybody",
    "24": "empty-bridge removal: needs two owners of one bridge; here, as in Virga, whoever bridges the tap owns the bridge",
    "26": "quota on revert: the lab has no quotas, and Virga's revert takes room that its migration has held since the resize",
}
