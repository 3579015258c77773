"""`virga token`: leave for one host to join, good once. Printed alone on stdout, so that it can be piped to where it is needed."""
from __future__ import annotations

import asyncio

import click

from virga.cli import fail
from virga.cli_client import Client, ClientError, find_login


@click.command(name="token")
@click.option("--lifetime", "lifetime_s", type=click.FloatRange(1, 7 * 86400), default=3600.0, show_default=True, help="Seconds the token may be used.")
@click.option("--state", type=click.Path(file_okay=False), default=None, help="State folder of the controller.")
@click.option("--os-cloud", default=None, help="A cloud of clouds.yaml instead.")
def command(lifetime_s: float, state: str | None, os_cloud: str | None) -> None:
    """Make a join token: `virga host --join TOKEN` on the machine that is to become a host."""

    async def work() -> str:
        async with Client(find_login(state, os_cloud)) as client:
            made = await client.post("virga", "/join-tokens", {"lifetime_s": lifetime_s})
            return str(made["join_token"]["token"])

    try:
        click.echo(asyncio.run(work()))
    except ClientError as error:
        fail(str(error))
