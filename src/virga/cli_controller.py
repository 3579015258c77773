"""`virga controller`: API, database and engine without hosts; real hosts join over the network. `virga token`: leave to join, good once."""
from __future__ import annotations

import asyncio

import click

from virga.cli import fail
from virga.cli_up import read_config

FABRIC_DEFAULT = "127.0.0.1:8788"


@click.command(name="controller")
@click.option("--state", type=click.Path(file_okay=False), default=None, help="Folder for everything that lasts (default ./virga-state).")
@click.option("--listen", default=None, metavar="HOST:PORT", help="Where the API answers (default 127.0.0.1:8787).")
@click.option("--fabric", default=None, metavar="HOST:PORT", help=f"Where hosts dial in, mutual TLS (default {FABRIC_DEFAULT}).")
@click.option("--fabric-url", default=None, metavar="wss://HOST:PORT", help="How hosts reach that, when it is not the same (behind NAT, by name).")
@click.option("--config", "config_file", type=click.Path(dir_okay=False, exists=True), default=None, help="TOML file; options given here win.")
def command(config_file: str | None, **options: str | None) -> None:
    """Start the controller alone. It prints a join token; `virga token` makes more. Ctrl-C stops it, guests on the hosts run on."""
    try:
        config = read_config(config_file, hosts=0, hypervisor="none", **options)
    except ValueError as error:
        fail(str(error))
        return
    if not config.fabric:
        config = read_config(config_file, hosts=0, hypervisor="none", **{**options, "fabric": FABRIC_DEFAULT})
    from virga.serve import CannotStart, LiveCloud, run_until_signal

    cloud = LiveCloud(config)

    async def ready() -> None:
        assert cloud.doorway is not None
        click.echo(f"virga controller is up at {cloud.url}, hosts dial {cloud.doorway.url}  clouds.yaml: {cloud.clouds_yaml}")
        click.echo(f"on a host:  virga host --join {await cloud.doorway.invite(3600.0)}")

    try:
        asyncio.run(run_until_signal(cloud, ready))
    except CannotStart as error:
        fail(str(error))
