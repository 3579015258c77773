"""A hanging or failed server of a Kilo cloud, explained on one page.

Owns: the questions an operator has, in their order: what is awaited, who has to send it, which rule dropped it, what both hosts see, since when, and
what ends it. Everything on the page is read from the cloud's rows, machines, waiters and drops at that moment; nothing is known from the outside.
"""
from __future__ import annotations

import click

from virga.domain.server import status_of
from virga.lab import kilo_rules as rules
from virga.lab.founding import KiloCase, Plan
from virga.lab.kilo import KiloCloud, Wait
from virga.lab.options import Mistake, Options
from virga.runtime.trace import Trace
from virga.sim.loop import SimLoop


def circular(cloud: KiloCloud, wait: Wait) -> bool:
    """Whether a wait can never be fulfilled: it waits for a report that only the bound host may make, and the step that would bind
    the port to the waiting host comes after the wait."""
    ports = [port for port in cloud.store.ports_of(wait.server_id) if f"{rules.PLUGGED}-{port.id}" in wait.keys]
    return cloud.rules.rebind == rules.LAST and any(port.host != wait.host for port in ports)


def page(cloud: KiloCloud, server_id: str, asked_at: float) -> str:
    """The page. `asked_at` is when the revert was asked for (seconds since the epoch of the run)."""
    now, store = cloud.env.now(), cloud.store
    server = store.server(server_id)
    wait = next((wait for wait in reversed(cloud.waits) if wait.server_id == server_id and wait.since >= asked_at), None)
    lines = [f"Server {server_id}", f"  status {status_of(server.vm_state, server.task_state)} (vm_state {server.vm_state}, task_state {server.task_state}), "
             f"revert asked {now - asked_at:.1f} s ago, migration {store.migration(server_id).status}"]
    if server.fault is not None:
        lines.append(f"  fault: {server.fault.message}")
    if wait is not None:
        lines += _about(cloud, wait, now)
    drops = [(at, text) for at, whose, text in cloud.drops if whose == server_id and at >= asked_at]
    lines += ["", "Dropped, and by which rule"] + ([f"  {now - at:6.1f} s ago  {text}" for at, text in drops[-6:]] or ["  nothing"])
    lines += ["", "What each side sees"]
    for port in store.ports_of(server_id):
        lines.append(f"  network server: port {port.id[:8]} {port.status} for {now - port.since:.1f} s (by {port.told_by}), bound to {port.host}")
    lines.append(f"  database:       host {server.host}, flavor {server.flavor.name}")
    lines += [_host(cloud, host, server_id) for host in cloud.machines]
    lines += ["", "What ends it", *_ends(cloud, wait, now)]
    return "\n".join(lines)


def _about(cloud: KiloCloud, wait: Wait, now: float) -> list[str]:
    keys = ", ".join(wait.keys)
    ended = "" if wait.until is None else f"; it ended {now - wait.until:.1f} s ago" + (" by its deadline" if wait.timed_out else "")
    lines = ["", "Awaited", f"  {keys}", f"  by finish_revert_migration on {wait.host}, for {(wait.until or now) - wait.since:.1f} s{ended}", "",
             "Who has to send it",
             "  the network server, when the port's status becomes ACTIVE, which needs update_device_up from the host the port is bound to"]
    for port in cloud.store.ports_of(wait.server_id):
        if f"{rules.PLUGGED}-{port.id}" in wait.keys:
            lines.append(f"  port {port.id[:8]} is bound to {port.host}, so only the agent of {port.host} is listened to; the tap is on {wait.host}")
    if circular(cloud, wait):
        lines += ["", "Circular wait", f"  the binding moves to {wait.host} in migrate_instance_finish, which runs after this wait; this wait ends by a report",
                  f"  that counts only once the binding has moved to {wait.host}. Neither can be first."]
    return lines


def _host(cloud: KiloCloud, host: str, server_id: str) -> str:
    machine = cloud.machines[host]
    taps = [port.id[:8] for port in cloud.store.ports_of(server_id) if "tap/" + port.id in machine.journal.values]
    bridged = [port.id[:8] for port in cloud.store.ports_of(server_id) if "bridged/" + port.id in machine.journal.values]
    disk = "disk" if machine.disk(server_id) is not None else "old disk put aside" if machine.disk(server_id + "_resize") is not None else "no disk"
    return (f"  {host + ':':15} guest {machine.guests().get(server_id, 'absent')}, {disk}, tap {'present' if taps else 'absent'}"
            + (f", {'bridged' if bridged else 'not bridged'}" if taps else ""))


def _ends(cloud: KiloCloud, wait: Wait | None, now: float) -> list[str]:
    timeout_s = cloud.options.vif_plugging_timeout
    if wait is None:
        return ["  no wait is open: whoever was to go on is gone, and nothing starts it again" if any(
            server.task_state for server in cloud.store.servers.values()) else "  nothing: it has ended"]
    if wait.until is not None:
        return ["  it has ended"]
    left_s = wait.since + timeout_s - now
    if not cloud.rules.fatal:
        return [f"  vif_plugging_timeout ({timeout_s:g} s), in {left_s:.1f} s: the guest is resumed all the same (vif_plugging_is_fatal is false)"]
    disk = " and its disk deleted, the last one there is" if cloud.rules.failed_plug_deletes_disks else ""
    return [f"  vif_plugging_timeout ({timeout_s:g} s), in {left_s:.1f} s: the guest is destroyed{disk}, VirtualInterfaceCreateException, status ERROR"]


def look(seed: int, options: Options, at_s: float, settle_s: float) -> str:
    """The page about one server, `at_s` seconds after its revert was asked for; '' when it has come through by then."""
    loop = SimLoop(seed)
    trace = Trace(loop.time, ring=1)
    cloud = KiloCase(seed, options, Plan(servers=1), loop, trace)
    server_id = next(iter(cloud.store.servers))

    async def main() -> str:
        cloud.start()
        await cloud.ask("resize", server_id)
        while cloud.state(server_id) != ("resized", None):
            await cloud.env.sleep(0.25)
        await cloud.env.sleep(settle_s * (0.5 + cloud.env.rng.random()))
        asked_at = cloud.env.now()
        await cloud.ask("revert", server_id)
        await cloud.env.sleep(at_s)
        text = "" if cloud.state(server_id) == ("active", None) else page(cloud, server_id, asked_at)
        cloud.stop()
        return text

    return loop.run(main)


def report(options: Options, first: int, seeds: int, at_s: float, settle_s: float) -> None:
    """Print the page of the first seed whose revert has not come through. Raises Mistake for Virga, whose own command this is."""
    if options.era == rules.VIRGA:
        raise Mistake("--explain is for the Kilo eras; for a server of a running Virga cloud use: virga explain SERVER")
    for seed in range(first, first + seeds):
        text = look(seed, options, at_s, settle_s)
        if text:
            click.echo(f"era {options.name}, seed {seed}\n\n{text}")
            return
    click.echo(f"era {options.name}: in seeds {first} to {first + seeds - 1} no server hangs or fails {at_s:g} s after its revert")
