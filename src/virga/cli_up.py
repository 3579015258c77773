"""`virga up`: a whole cloud in one process tree. Prints one ready line with the URL and the path of clouds.yaml.

With fake hosts it is one process (serve.py); with real guests it is a controller, an agent a host and their daemons (cli_emulated.py).
"""
from __future__ import annotations

import asyncio
import tomllib
from pathlib import Path
from typing import Any

import click

from virga.cli import fail
from virga.domain.config import Config, load


def read_config(path: str | None, **overrides: Any) -> Config:
    """The configuration from a TOML file, with command-line options on top. Raises ValueError naming the key."""
    data: dict[str, Any] = {}
    if path:
        try:
            data = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise ValueError(f"cannot read {path}: {error}") from error
    data.update({name: value for name, value in overrides.items() if value is not None})
    return load(data)


@click.command(name="up")
@click.option("--hosts", type=click.IntRange(1, 500), default=None, help="Emulated hosts (default 2).")
@click.option("--hypervisor", type=click.Choice(["fake", "libvirt"]), default=None, help="Driver of the emulated hosts (default fake).")
@click.option("--virt-type", "virt_type", type=click.Choice(["kvm", "qemu"]), default=None, help="For libvirt: kvm (default) or qemu (slow, works anywhere).")
@click.option("--state", type=click.Path(file_okay=False), default=None, help="Folder for everything that lasts (default ./virga-state).")
@click.option("--listen", default=None, metavar="HOST:PORT", help="Where the API answers (default 127.0.0.1:8787).")
@click.option("--config", "config_file", type=click.Path(dir_okay=False, exists=True), default=None, help="TOML file; options given here win.")
def command(config_file: str | None, **options: Any) -> None:
    """Start a whole cloud: API, database, engine and emulated hosts. Ctrl-C stops it; the next start takes up where it was."""
    try:
        config = read_config(config_file, **options)
    except ValueError as error:
        fail(str(error))
        return
    from virga.serve import CannotStart, LiveCloud, run_until_signal

    if config.hypervisor == "libvirt":
        from virga.cli_emulated import EmulatedCloud

        cloud: LiveCloud | EmulatedCloud = EmulatedCloud(config, click.echo)
    else:
        cloud = LiveCloud(config)

    async def ready() -> None:
        click.echo(f"virga is up at {cloud.url}  clouds.yaml: {cloud.clouds_yaml}")
        click.echo(f"try:  OS_CLIENT_CONFIG_FILE={cloud.clouds_yaml} openstack --os-cloud virga server list")
        await cloud.hosts_ready()
        click.echo(f"{config.hosts} {config.hypervisor} hosts are connected; Ctrl-C stops the cloud")

    try:
        asyncio.run(run_until_signal(cloud, ready))
    except CannotStart as error:
        fail(str(error))
