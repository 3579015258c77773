"""`virga host`: the agent of this machine. Joins once with a token, then dials the controller for ever; its guests do not need it to live."""
from __future__ import annotations

import asyncio
import signal
import socket
from pathlib import Path

import click

from virga.cli import fail


@click.command(name="host")
@click.option("--join", "token", default=None, metavar="TOKEN", help="Join token printed by the controller, or @FILE with it; needed once.")
@click.option("--name", default=None, help="Name of this host in the cloud (default: its host name).")
@click.option("--state", type=click.Path(file_okay=False), default="/var/lib/virga", show_default=True, help="Folder for certificate, journal and disks.")
@click.option("--hypervisor", type=click.Choice(["libvirt", "fake"]), default="libvirt", show_default=True,
              help="fake runs no VM, and its disks do not travel between machines.")
@click.option("--virt-type", type=click.Choice(["kvm", "qemu"]), default="kvm", show_default=True, help="For libvirt.")
@click.option("--address", default=None, help="Address other hosts reach this one at (VXLAN, disks, live migration); default: the one we dial from.")
@click.option("--config", "config_file", type=click.Path(dir_okay=False, exists=True), default=None, help="TOML file, sections [compute] and [network].")
def command(token: str | None, name: str | None, state: str, hypervisor: str, virt_type: str, address: str | None, config_file: str | None) -> None:
    """Run the agent of this host until it is stopped; guests go on running."""
    from virga.cli_up import read_config
    from virga.hostagent import CannotJoin, HostProcess

    try:
        config = read_config(config_file, hypervisor=hypervisor, virt_type=virt_type)
    except ValueError as error:
        fail(str(error))
        return
    if token is not None and token.startswith("@"):
        try:
            token = Path(token[1:]).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            fail(f"cannot read the join token: {error}")
            return

    folder = Path(state).absolute()

    async def main() -> None:
        process = HostProcess(config, folder, name or socket.gethostname().partition(".")[0], address or "")
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        joined = await process.join(token)
        click.echo(f"host {joined.host} dials {joined.url} ({hypervisor}); Ctrl-C stops the agent, guests run on")
        await process.start()
        await stop.wait()
        await process.stop()

    try:
        asyncio.run(main())
    except CannotJoin as error:
        fail(str(error))
